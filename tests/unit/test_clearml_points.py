"""What becomes which scalar in ClearML."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import PermanentSinkError
from bus.events import Event
from bus.kinds import Metrics, NonFinite, Number, Summary, System, Table
from subscribers.clearml.points import (
    SINGLE_VALUE_ITERATION,
    NonFiniteNotes,
    Point,
    event_of_point,
    expected_points,
    is_storable,
    points_of,
)
from tests.fixtures.events import example


def metrics(keys: list[str], *rows: list[Number]) -> Event:
    return example("metrics", data=Metrics([Table(keys, list(rows))]))


def test_rows_become_points_of_title_and_series() -> None:
    event = metrics(["train/loss", "lr"], [1767225600.1234, 10, 0.5, 1])
    assert list(points_of(event)) == [
        Point("train", "loss", 10, 1767225600123, 0.5),
        Point("lr", "lr", 10, 1767225600123, 1.0),
    ]


def test_of_a_value_said_twice_under_different_keys_the_last_one_comes_last() -> None:
    rows: list[list[Number]] = [[10.0, 3, 1.0], [30.0, 3, 3.0]]
    tables = [Table(["loss"], rows), Table(["lr", "loss"], [[20.0, 3, 0.1, 2.0]])]
    points = list(points_of(example("metrics", data=Metrics(tables))))
    assert [p.value for p in points if p.metric == "loss"] == [1.0, 2.0, 3.0]


def test_a_summary_becomes_single_values_and_readings_go_to_the_monitor() -> None:
    summary = example("summary", data=Summary({"mAP50": 0.9}), time=1.0)
    assert list(points_of(summary)) == [
        Point("Summary", "mAP50", SINGLE_VALUE_ITERATION, 1000, 0.9)
    ]
    system = example("system", data=System({"cpu.percent": 1, "gpu0.memory": 2}), time=7.9)
    assert [(point.metric, point.variant, point.iteration) for point in points_of(system)] == [
        (":monitor:machine", "cpu.percent", 7),
        (":monitor:gpu", "gpu0.memory", 7),
    ]
    assert list(points_of(example("params"))) == []


@pytest.mark.parametrize(
    "row",
    [
        [-1.0, 1, 0.5],
        [math.inf, 1, 0.5],
        [math.nan, 1, 0.5],
        [1e300, 1, 0.5],
        [1e308, 1, 0.5],
        [10**400, 1, 0.5],
        [2.6e11, 1, 0.5],
        [1.0, 2**63, 0.5],
        [1.0, -(2**63), 0.5],
    ],
)
def test_a_time_or_step_that_clearml_cannot_hold_is_refused_for_good(row: list[Number]) -> None:
    with pytest.raises(PermanentSinkError, match="out of range"):
        list(points_of(metrics(["loss"], row)))


@pytest.mark.parametrize(
    ("value", "is_held"),
    [
        (0.0, True),
        (-3.4e38, True),
        (3.4028234663852886e38, True),
        (3.5e38, False),
        (math.nan, False),
        (math.inf, False),
        (-math.inf, False),
    ],
)
def test_only_what_a_32_bit_float_holds_is_sent(value: float, is_held: bool) -> None:
    assert is_storable(value) is is_held


def test_the_line_of_a_point_is_that_of_the_sdk() -> None:
    point = Point("train", "box", 1, 1795175494790, 0.5)
    assert event_of_point("t", point) == {
        "type": "training_stats_scalar",
        "task": "t",
        "timestamp": 1795175494790,
        "iter": 1,
        "metric": "train",
        "variant": "box",
        "value": 0.5,
    }
    assert "key" in event_of_point("t", point._replace(metric="val-set"))


def test_expected_points_are_equal_where_clearml_keeps_only_one() -> None:
    first = metrics(["a/b", "c"], [1.0, 1, 0.5, 1], [2.0, 2, 0.5, NonFinite.NAN])
    again = metrics(["a/b"], [9.0, 1, 0.7])
    assert expected_points(first) == {(1, "a", "b"), (1, "c", "c"), (2, "a", "b")}
    assert expected_points(again) <= expected_points(first)


def test_what_cannot_be_stored_is_left_out_and_counted() -> None:
    notes = NonFiniteNotes()
    event = metrics(
        ["a/b", "c"],
        [1.0, 3, NonFinite.NAN, 1.0],
        [1.0, 1, NonFinite.INFINITY, 10**400],
        [1.0, 9, 0.5, -1e39],
    )
    kept = list(notes.keep_storable(points_of(event)))
    assert [(point.metric, point.iteration, point.value) for point in kept] == [
        ("c", 3, 1.0),
        ("a", 9, 0.5),
    ]
    assert json.loads(notes.text) == {
        "a/b": {"count": 2, "first": 1, "last": 3, "values": ["Infinity", "NaN"]},
        "c/c": {"count": 2, "first": 1, "last": 9, "values": ["Infinity", "beyond 32-bit floats"]},
    }
    again = NonFiniteNotes(notes.text)
    again.add(Point("a", "b", 12, 0, -math.inf))
    assert again.counts == {"a/b": 3, "c/c": 2}
    assert json.loads(again.text)["a/b"]["last"] == 12


@pytest.mark.parametrize("text", ["", "x", "[]", "1", '{"a": 1}', '{"a": {"count": "x"}}'])
def test_a_damaged_note_counts_as_none(text: str) -> None:
    assert NonFiniteNotes(text).text == ""


def test_a_note_names_a_bounded_number_of_metrics() -> None:
    notes = NonFiniteNotes()
    for number in range(1000):
        notes.add(Point("m", str(number), 0, 0, math.nan))
    assert sum(notes.counts.values()) == 1000
    assert len(notes.counts) == 201


@given(st.lists(st.floats(), max_size=20))
def test_every_value_is_sent_or_counted(values: list[float]) -> None:
    notes = NonFiniteNotes()
    points = [Point("m", "v", step, 0, value) for step, value in enumerate(values)]
    sent = list(notes.keep_storable(points))
    assert len(sent) + sum(notes.counts.values()) == len(values)
    assert all(math.isfinite(point.value) for point in sent)
