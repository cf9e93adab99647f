"""The error tree is the one its documentation draws."""

from __future__ import annotations

import re

import pytest

import bus.errors
from bus.errors import EventError, RetryableSinkError, TrainbusError

ERRORS = [getattr(bus.errors, name) for name in bus.errors.__all__]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_can_be_caught_as_ours_and_says_what_it_is_for(error: type) -> None:
    assert issubclass(error, TrainbusError)
    assert error.__name__.endswith("Error")
    assert error.__doc__


def test_the_drawing_in_the_docstring_shows_every_error_under_its_parent() -> None:
    drawn: dict[str, str] = {}
    parents = ["TrainbusError"]
    for line in (bus.errors.__doc__ or "").splitlines():
        match = re.match(r"    (?P<rails>[ │]*)[├└]── (?P<name>\w+)", line)
        if match:
            depth = len(match["rails"]) // 4 + 1
            drawn[match["name"]] = parents[depth - 1]
            parents[depth:] = [match["name"]]
    real = {one.__name__: one.__mro__[1].__name__ for one in ERRORS if one is not TrainbusError}
    assert drawn == real


def test_an_event_error_carries_the_field_and_the_reason() -> None:
    error = EventError("data.tables[0]", "is empty")
    assert (error.field, error.reason) == ("data.tables[0]", "is empty")
    assert str(error) == "data.tables[0]: is empty"


def test_a_retryable_error_carries_the_pause_that_was_asked_for() -> None:
    assert RetryableSinkError("slow down", 30.0).retry_after_seconds == 30.0
    assert RetryableSinkError("down").retry_after_seconds is None
