"""Which points an event becomes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import PermanentSinkError
from bus.events import Event
from bus.kinds import (
    Blob,
    KindData,
    Metrics,
    Model,
    NonFinite,
    Number,
    Params,
    Summary,
    System,
    Table,
)
from subscribers.mlflow.points import as_float, expected_points, points_of, to_ms


def event(kind: str, data: KindData, time: float = 1000.0005) -> Event:
    return Event(kind, "/runs/r/0/1-0-0000000000000000/n", 7, "r", "p", "n", time, data)


@pytest.mark.parametrize(
    ("seconds", "ms"), [(0.0, 0), (1.0004, 1000), (1.0006, 1001), (1767225600.123, 1767225600123)]
)
def test_seconds_become_the_nearest_millisecond(seconds: float, ms: int) -> None:
    assert to_ms(seconds) == ms


@given(st.integers(0, 4_102_444_800_000))
def test_milliseconds_survive_as_seconds(ms: int) -> None:
    assert to_ms(ms / 1000) == ms


def test_every_value_of_every_row_is_a_point() -> None:
    tables = [
        Table(["a", "b (x)"], [[1.5, 3, 0.25, 7], [2.5, 4, NonFinite.NAN, NonFinite.INFINITY]]),
        Table(["a"], [[1.5, 3, 0.25]]),
    ]
    data = event("metrics", Metrics(tables))
    assert len(list(points_of(data))) == 5
    found = expected_points(data)
    key = next(point[0] for point in found if point[0] != "a")
    assert found == {
        ("a", 1500, 3, 0.25),
        (key, 1500, 3, 7.0),
        ("a", 2500, 4, "nan"),
        (key, 2500, 4, "nan"),
    }


def test_single_values_are_points_at_step_0_and_the_time_of_the_event() -> None:
    blob = Blob("m", 1, "0" * 64)
    assert expected_points(event("summary", Summary({"acc": 1}))) == {("acc", 1000000, 0, 1.0)}
    assert expected_points(event("system", System({"cpu": 5.0}))) == {
        ("system/cpu", 1000000, 0, 5.0)
    }
    assert expected_points(event("model", Model("m", blob, metrics={"acc": 2}))) == {
        ("acc", 1000000, 0, 2.0)
    }
    assert expected_points(event("params", Params("General", {"a": 1}))) == set()


@pytest.mark.parametrize(("time", "step"), [(-0.001, 0), (1e300, 0), (0.0, 2**63), (0.0, -(2**63))])
def test_what_no_database_can_hold_is_refused_for_good(time: float, step: int) -> None:
    data = event("metrics", Metrics([Table(["a"], [[time, step, 1.0]])]))
    with pytest.raises(PermanentSinkError, match="event 7 of /runs/r/0"):
        list(points_of(data))


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (1, 1.0),
        (NonFinite.NEGATIVE_INFINITY, -math.inf),
        (10**400, math.inf),
        (-(10**400), -math.inf),
    ],
)
def test_numbers_beyond_a_float_become_infinities(number: Number, value: float) -> None:
    assert as_float(number) == value


def test_a_summary_stands_at_its_step_or_at_0() -> None:
    assert [point.step for point in points_of(event("summary", Summary({"a": 1.0}, 3)))] == [3]
    assert [point.step for point in points_of(event("summary", Summary({"a": 1.0})))] == [0]
