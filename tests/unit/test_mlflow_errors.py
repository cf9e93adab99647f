"""MLflow's errors as sink errors."""

from __future__ import annotations

import errno

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos import databricks_pb2 as codes

from bus.errors import (
    ConfigError,
    PermanentSinkError,
    RetryableSinkError,
    SinkError,
    StoreError,
)
from subscribers.mlflow.errors import translate


def with_cause(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def answer(status: int, **headers: str) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return requests.HTTPError(f"{status} from a proxy", response=response)


def by_status(status: int, code: int = codes.INTERNAL_ERROR) -> MlflowException:
    return MlflowException(f"endpoint /x failed with error code {status} != 200", code)


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("API request failed with exception: refused"),
        MlflowException("database is locked", codes.TEMPORARILY_UNAVAILABLE),
        MlflowException("QueuePool limit of size 5 overflow 10 reached", codes.BAD_REQUEST),
        MlflowException("too many", codes.RESOURCE_EXHAUSTED),
        MlflowException("slow", codes.REQUEST_LIMIT_EXCEEDED),
        RestException({"error_code": "INTERNAL_ERROR", "message": "oops"}),
        RestException({"detail": "Not Found"}),
        with_cause(MlflowException("timed out"), requests.Timeout()),
        requests.ConnectionError("reset"),
        TimeoutError(),
        OSError(errno.ENOSPC, "No space left on device"),
        StoreError("the store is away"),
        answer(429),
        answer(503),
    ],
)
def test_what_may_pass_is_worth_another_try(error: Exception) -> None:
    assert type(translate(error, "writing")) is RetryableSinkError


@pytest.mark.parametrize(
    "error",
    [
        by_status(401, codes.UNAUTHENTICATED),
        by_status(403, codes.PERMISSION_DENIED),
        by_status(404, codes.ENDPOINT_NOT_FOUND),
        answer(401),
    ],
)
def test_what_a_person_can_set_right_is_worth_another_try_and_names_the_variable(
    error: Exception,
) -> None:
    translated = translate(error, "writing")
    assert type(translated) is RetryableSinkError
    assert "MLFLOW_TRACKING_" in str(translated)


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("Changing param values is not allowed", codes.INVALID_PARAMETER_VALUE),
        RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run"}),
        StoreError("file:///x is not there", is_missing=True),
        by_status(413),
        answer(413),
    ],
)
def test_what_never_passes_is_given_up(error: Exception) -> None:
    assert type(translate(error, "writing")) is PermanentSinkError


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("value too long for type", codes.BAD_REQUEST),
        with_cause(MlflowException("bug", codes.INTERNAL_ERROR), TypeError("bug")),
        StoreError("the bytes are not those of its checksum", is_damaged=True),
        OSError(errno.ENAMETOOLONG, "File name too long"),
        KeyError("x"),
        answer(404),
    ],
)
def test_what_is_not_clear_is_tried_a_bounded_number_of_times(error: Exception) -> None:
    assert type(translate(error, "writing")) is SinkError


def test_a_pause_that_is_asked_for_is_passed_on() -> None:
    error = translate(answer(429, Retry_After="7"), "uploading")
    assert isinstance(error, RetryableSinkError)
    assert error.retry_after_seconds == 7.0
    date = translate(answer(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), "uploading")
    assert isinstance(date, RetryableSinkError)
    assert date.retry_after_seconds == 0.0  # a date that has passed


def test_the_message_is_one_line_that_says_what_was_being_done() -> None:
    assert str(translate(KeyError(), "writing")) == "writing: KeyError"
    assert str(translate(MlflowException("a\n  b"), "writing")) == "writing: a b"


def test_a_password_in_an_address_is_not_repeated() -> None:
    error = MlflowException("API request to http://me:secret@host:5000/api failed with a@b")
    assert str(translate(error, "writing")) == (
        "writing: API request to http://host:5000/api failed with a@b"
    )


def test_errors_of_ours_stay_as_they_are() -> None:
    for error in (PermanentSinkError("x"), ConfigError("x")):
        assert translate(error, "writing") is error
