"""What answers over HTTP mean to the worker."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from bus.errors import PermanentSinkError, RetryableSinkError
from subscribers.hub.answers import Answer, Place
from subscribers.hub.keys import ApiKey

PLACE = Place("HUB", "https://hub.example.com", "ULTRALYTICS_HUB_API")
KEY = ApiKey("s3cr3t" * 7, "HUB_API_KEY", "x-api-key")


def answer(
    status: int, raw: bytes = b'{"message": "no"}', headers: dict[str, str] | None = None
) -> Answer:
    return Answer(status, CIMultiDict(headers or {}), raw)


def result(found: Answer, key: ApiKey | None = KEY) -> dict[str, object]:
    return found.result("asking", PLACE, key, now=1_800_000_000.0)


def test_a_success_is_a_json_object() -> None:
    assert result(answer(200, b'{"data": {}}')) == {"data": {}}
    assert result(answer(201, b"{}")) == {}


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b"null", b"\xff", b"[" * 100_000, b'"x"'])
def test_anything_else_that_succeeds_is_another_server(raw: bytes) -> None:
    with pytest.raises(RetryableSinkError, match="check ULTRALYTICS_HUB_API"):
        result(answer(200, raw))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
def test_what_may_pass_is_tried_again_after_the_pause_that_was_asked_for(status: int) -> None:
    with pytest.raises(RetryableSinkError, match=f"asking: HUB answers {status}: no") as error:
        result(answer(status, headers={"retry-after": "7"}))
    assert error.value.retry_after_seconds == 7.0


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({}, None),
        ({"x-ratelimit-reset": "12"}, 12.0),
        ({"X-RateLimit-Reset": "1800000030"}, 30.0),
        ({"Retry-After": "nonsense"}, None),
        ({"Retry-After": "3", "X-RateLimit-Reset": "12"}, 3.0),
    ],
)
def test_the_pause_is_read_from_either_header(headers: dict[str, str], pause: float | None) -> None:
    with pytest.raises(RetryableSinkError) as error:
        result(answer(429, headers=headers))
    assert error.value.retry_after_seconds == pause


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_for_a_person_to_set_right(status: int) -> None:
    with pytest.raises(RetryableSinkError, match="HUB refuses the key of HUB_API_KEY: set HUB"):
        result(answer(status))


@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 415, 422])
def test_what_is_refused_is_permanent(status: int) -> None:
    with pytest.raises(PermanentSinkError, match=f"asking: HUB answers {status}: no"):
        result(answer(status))


@pytest.mark.parametrize(("status", "raw"), [(301, b""), (307, b"{}"), (404, b"<html>no page")])
def test_a_wrong_address_is_for_a_person_to_set_right(status: int, raw: bytes) -> None:
    with pytest.raises(RetryableSinkError, match="check ULTRALYTICS_HUB_API"):
        result(answer(status, raw))


@pytest.mark.parametrize("status", [401, 404, 400, 500])
@pytest.mark.parametrize("form", ['{{"message": "key {}"}}', "key {}", '{{"error": ["{}"]}}'])
def test_a_key_that_the_server_repeats_is_hidden(status: int, form: str) -> None:
    with pytest.raises((RetryableSinkError, PermanentSinkError)) as error:
        result(answer(status, form.format(KEY.value).encode()))
    assert KEY.value not in str(error.value)


def test_a_long_answer_is_one_short_line() -> None:
    with pytest.raises(PermanentSinkError) as error:
        result(answer(400, b"a\nb " * 10_000))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
