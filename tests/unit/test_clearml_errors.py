"""ClearML's errors as sink errors, and which events count as accepted."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from clearml.backend_api.session.session import LoginError

from bus.errors import ConfigError, PermanentSinkError, RetryableSinkError, SinkError, StoreError
from subscribers.clearml.api import Api
from subscribers.clearml.errors import AnswerError, translate
from subscribers.clearml.events import MAX_BYTES, chunks_of, send


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AnswerError(400, 12, "no"), PermanentSinkError),
        (AnswerError(400, 121, "someone changed it"), RetryableSinkError),
        (AnswerError(413, 0, "too large"), PermanentSinkError),
        (AnswerError(401, 22, "no"), RetryableSinkError),
        (AnswerError(403, 21, "no"), RetryableSinkError),
        (AnswerError(404, 0, "no"), RetryableSinkError),
        (AnswerError(302, 0, "elsewhere"), RetryableSinkError),
        (AnswerError(200, 0, "no JSON"), RetryableSinkError),
        (AnswerError(429, 0, "slow"), RetryableSinkError),
        (AnswerError(500, 0, "oops"), RetryableSinkError),
        (AnswerError(500, 102, "database"), RetryableSinkError),
        (AnswerError(503, 0, "later"), RetryableSinkError),
        (AnswerError(500, 100, "data error"), SinkError),
        (AnswerError(418, 0, "teapot"), SinkError),
        (requests.ConnectionError("refused"), RetryableSinkError),
        (requests.ReadTimeout("silent"), RetryableSinkError),
        (requests.exceptions.ChunkedEncodingError("broken"), RetryableSinkError),
        (ConnectionResetError("reset"), RetryableSinkError),
        (OSError(errno.ENOSPC, "full"), RetryableSinkError),
        (OSError(errno.ENOENT, "gone"), SinkError),
        (StoreError("gone", is_missing=True), PermanentSinkError),
        (StoreError("damaged", is_damaged=True), SinkError),
        (StoreError("away"), RetryableSinkError),
        (LoginError("no token"), RetryableSinkError),
        (ValueError("a bug"), SinkError),
        (ConfigError("s3fs"), ConfigError),
    ],
)
def test_an_error_says_what_to_do_next(error: Exception, kind: type[Exception]) -> None:
    translated = translate(error, "writing")
    assert type(translated) is kind
    if not isinstance(error, ConfigError):
        assert "writing" in str(translated)


def test_a_pause_that_is_asked_for_is_passed_on() -> None:
    error = translate(AnswerError(429, 0, "slow", {"Retry-After": "7"}), "writing")
    assert isinstance(error, RetryableSinkError)
    assert error.retry_after_seconds == 7


def test_what_went_wrong_while_logging_in_is_told_by_its_cause() -> None:
    login = LoginError("Unrecognized Authentication Error")
    login.__context__ = AnswerError(503, 0, "later", {"Retry-After": "3"})
    error = translate(login, "opening")
    assert isinstance(error, RetryableSinkError)
    assert error.retry_after_seconds == 3
    assert "CLEARML_API_ACCESS_KEY" not in str(error)
    login.__context__ = AnswerError(401, 22, "invalid credentials")
    assert "CLEARML_API_ACCESS_KEY" in str(translate(login, "opening"))


def test_messages_are_one_line_without_passwords() -> None:
    error = translate(requests.ConnectionError("no\nway to http://me:pass@host/x"), "writing")
    assert str(error) == "writing: no way to http://host/x"
    assert len(str(translate(AnswerError(400, 0, "x" * 5000), "writing"))) < 1200


class FakeApi(Api):
    """Answers ``events.add_batch`` as it is told."""

    def __init__(self, answers: Iterator[dict[str, Any]]) -> None:
        self.answers = answers
        self.sent: list[int] = []

    def add_events(self, lines: Any) -> dict[str, Any]:
        self.sent.append(len(lines))
        return next(self.answers)


def added(*answers: dict[str, Any]) -> FakeApi:
    return FakeApi(iter(answers))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"added": 2, "errors": 1, "errors_info": {"Invalid type": 1}}, PermanentSinkError),
        ({"added": 3, "errors": 1, "errors_info": {}}, PermanentSinkError),
        ({"added": 2, "errors": 0}, SinkError),
        ({"added": 4, "errors": 0}, SinkError),
    ],
)
def test_events_count_only_when_each_is_accepted(
    answer: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(SinkError) as caught:
        send(added(answer), [b"{}"] * 3, threading.Event())
    assert type(caught.value) is kind


def test_an_answer_that_does_not_say_what_was_added_is_not_clearmls() -> None:
    for answer in ({}, {"added": "3", "errors": 0}):
        with pytest.raises(AnswerError, match="does not say"):
            send(added(answer), [b"{}"] * 3, threading.Event())


def test_events_are_sent_in_as_few_calls_as_the_limits_allow() -> None:
    api = added(*({"added": n, "errors": 0} for n in (500, 500, 1)))
    assert send(api, [b"{}"] * 1001, threading.Event()) == 1001
    assert api.sent == [500, 500, 1]
    half = b"x" * (MAX_BYTES // 2)
    assert [len(chunk) for chunk in chunks_of([half, half, b"y"])] == [1, 2]
    assert list(chunks_of([])) == []
    with pytest.raises(PermanentSinkError, match="too large"):
        list(chunks_of([b"x" * (MAX_BYTES + 1)]))


def test_a_write_that_was_cancelled_sends_no_more() -> None:
    stop = threading.Event()
    stop.set()
    api = added()
    with pytest.raises(RetryableSinkError, match="cancelled"):
        send(api, [b"{}"], stop)
    assert api.sent == []
