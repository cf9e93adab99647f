"""Metric points: what of an event becomes which points in MLflow.

One function answers it for the sink, which writes them, and for the receipt, which counts them.

- ``metrics``: every value of every row, under its key, time and step.
- ``summary``: every value under its key at the event's time and its step, else step 0.
- ``system``: every reading under ``system/`` and its name, at the event's time and step 0.
- ``model``: its metrics under their keys, at the event's time and step 0.

MLflow keeps NaN. It would turn ±infinity into ±1.797e308, a number nobody logged that ruins every
chart: the sink logs NaN instead and says so in the tag ``trainbus.nonfinite.{key}``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from bus.errors import PermanentSinkError
from bus.events import Event
from bus.kinds import Metrics, Model, NonFinite, Summary, System
from subscribers.mlflow.names import safe_name

__all__ = ["POINT_KINDS", "Point", "as_float", "expected_points", "points_of", "to_ms"]

POINT_KINDS = frozenset({"metrics", "model", "summary", "system"})
"""The kinds that hold metric points."""

_MAX_INT64 = 2**63 - 1


class Point(NamedTuple):
    """One value of one metric.

    Attributes:
        key: The name in MLflow.
        ms: Unix milliseconds.
        value: As it was logged, infinities too.
    """

    key: str
    ms: int
    step: int
    value: float


def to_ms(seconds: float) -> int:
    """Unix seconds as the whole milliseconds MLflow keeps: the nearest, half to even."""
    return round(seconds * 1000)


def as_float(number: float | NonFinite) -> float:
    """A number on the wire as a float; a whole number beyond its range becomes an infinity."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if int(number) > 0 else -math.inf


def points_of(event: Event) -> Iterator[Point]:
    """The points of an event, in order.

    Raises:
        PermanentSinkError: A time before 1970, or a time or step beyond 64 bits.
    """
    data = event.data
    if isinstance(data, Metrics):
        for table in data.tables:
            keys = [safe_name(key) for key in table.keys]
            for row in table.rows:
                ms, step = _checked(to_ms(float(row[0])), int(row[1]), event)
                for key, value in zip(keys, row[2:], strict=True):
                    yield Point(key, ms, step, as_float(value))
        return
    if isinstance(data, Summary | System):
        prefix = "system/" if isinstance(data, System) else ""
        values = {prefix + key: value for key, value in data.values.items()}
    elif isinstance(data, Model):
        values = dict(data.metrics)
    else:
        return
    at = data.step or 0 if isinstance(data, Summary) else 0
    ms, step = _checked(to_ms(event.time), at, event)
    for key, value in values.items():
        yield Point(safe_name(key), ms, step, as_float(value))


def expected_points(event: Event) -> set[tuple[str, int, int, float | str]]:
    """The points MLflow must hold once an event is written: (key, ms, step, value or "nan").

    Points of different events may be the same one: count the union.

    Raises:
        PermanentSinkError: MLflow can never hold the event.
    """
    return {
        (point.key, point.ms, point.step, point.value if math.isfinite(point.value) else "nan")
        for point in points_of(event)
    }


def _checked(ms: int, step: int, event: Event) -> tuple[int, int]:
    if not 0 <= ms <= _MAX_INT64 or not -_MAX_INT64 <= step <= _MAX_INT64:
        raise PermanentSinkError(
            f"event {event.id} of {event.source}: time {ms} ms or step {step} is out of range"
        )
    return ms, step
