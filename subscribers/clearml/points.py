"""Scalars: what of an event becomes which ``training_stats_scalar`` in ClearML.

One function answers it for the sink, which writes them, and for the receipt, which counts them.

- ``metrics``: every value of every row, as series of a title, at its step and time.
- ``summary``: every value as a *single value*: metric "Summary", iteration -2147483648.
- ``system``: every reading under ":monitor:machine" or ":monitor:gpu" at the second it was taken.
  The server leaves these two out when it notes the last iteration of a task.

ClearML keeps one value per (task, iteration, metric, variant): the last one written. It keeps
32-bit floats and no NaN or infinity; the SDK turns those into 0.0, a number nobody logged. Here
they are left out and counted in a user property (:class:`NonFiniteNotes`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bus.errors import PermanentSinkError
from bus.events import Event
from bus.kinds import Metrics, NonFinite, Number, Summary, System
from subscribers.clearml.names import event_key, metric_and_variant

__all__ = [
    "POINT_KINDS",
    "SINGLE_VALUE_ITERATION",
    "NonFiniteNotes",
    "Point",
    "as_float",
    "event_of_point",
    "expected_points",
    "is_storable",
    "points_of",
    "to_ms",
]

POINT_KINDS = frozenset({"metrics", "summary", "system"})
"""The kinds that hold scalars."""

SINGLE_VALUE_ITERATION = -(2**31)
"""``Logger.report_single_value`` of the SDK."""

_SINGLE_VALUE_METRIC = "Summary"
_MAX_FLOAT32 = 3.4028234663852886e38
"""The largest 32-bit float. Elasticsearch refuses an event with a number that becomes infinite."""

_MAX_INT64 = 2**63 - 1
_MAX_MS = 253_402_300_799_999
"""The end of the year 9999: the last date that Elasticsearch can write."""

_MAX_NOTED = 200
"""Metrics named one by one in the note about values left out."""

_OTHERS = "(others)"


class Point(NamedTuple):
    """One value of one series.

    Attributes:
        ms: Unix milliseconds.
        value: As it was logged; :func:`is_storable` says whether ClearML can hold it.
    """

    metric: str
    variant: str
    iteration: int
    ms: int
    value: float


def to_ms(seconds: float) -> int:
    """Unix seconds as whole milliseconds: the nearest, half to even."""
    return round(seconds * 1000)


def is_storable(value: float) -> bool:
    """Whether a value is finite as a 32-bit float."""
    return -_MAX_FLOAT32 <= value <= _MAX_FLOAT32


def points_of(event: Event) -> Iterator[Point]:
    """The points of an event, in order, also those that cannot be stored.

    Raises:
        PermanentSinkError: A time before 1970 or after 9999, or a step beyond 64 bits.
    """
    data = event.data
    if isinstance(data, Metrics):
        for pairs, row in _rows(data):
            ms, step = _checked(event, as_float(row[0]), int(row[1]))
            for (metric, variant), value in zip(pairs, row[2:], strict=True):
                yield Point(metric, variant, step, ms, as_float(value))
    elif isinstance(data, Summary):
        ms, step = _checked(event, event.time, SINGLE_VALUE_ITERATION)
        for name, value in data.values.items():
            yield Point(_SINGLE_VALUE_METRIC, name, step, ms, as_float(value))
    elif isinstance(data, System):
        ms, step = _checked(event, event.time, int(event.time))
        for name, value in data.values.items():
            yield Point(_monitor(name), name, step, ms, as_float(value))


def _rows(data: Metrics) -> list[tuple[list[tuple[str, str]], list[Number]]]:
    """Metrics and variants, and a row of their values, as they were logged.

    Rows of different keys are in different tables, and may say something of the same point.
    """
    rows = []
    for table in data.tables:
        pairs = [metric_and_variant(key) for key in table.keys]
        rows += [(pairs, row) for row in table.rows]
    if len(data.tables) > 1:
        rows.sort(key=lambda one: as_float(one[1][0]))
    return rows


def event_of_point(task: str, point: Point) -> dict[str, Any]:
    """A point as a line of ``events.add_batch``."""
    event: dict[str, Any] = {
        "type": "training_stats_scalar",
        "task": task,
        "timestamp": point.ms,
        "iter": point.iteration,
        "metric": point.metric,
        "variant": point.variant,
        "value": point.value,
    }
    key = event_key(point.metric)
    if key is not None:
        event["key"] = key
    return event


def expected_points(event: Event) -> set[tuple[int, str, str]]:
    """The points ClearML must hold once an event is written: (iteration, metric, variant).

    Points of different events may be the same one, of which it keeps the last: count the union.

    Raises:
        PermanentSinkError: ClearML can never hold the event.
    """
    return {
        (point.iteration, point.metric, point.variant)
        for point in points_of(event)
        if is_storable(point.value)
    }


class NonFiniteNotes:
    """How many values of which metrics were left out, as the text of a user property.

    The text is written in the same call as the applied marks, so that a batch that is written
    again counts once. JSON: per metric the number of values, the first and last iteration, and
    what the values were.
    """

    def __init__(self, text: str = "") -> None:
        self._notes: dict[str, dict[str, Any]] = _parse(text)

    def add(self, point: Point) -> None:
        """Count one value."""
        name = f"{point.metric}/{point.variant}"
        if name not in self._notes and len(self._notes) >= _MAX_NOTED:
            name = _OTHERS
        at = point.iteration
        note = self._notes.setdefault(name, {"count": 0, "first": at, "last": at, "values": []})
        note["count"] += 1
        note["first"], note["last"] = min(note["first"], at), max(note["last"], at)
        note["values"] = sorted({*note["values"], _word(point.value)})

    @property
    def text(self) -> str:
        """The text; empty when nothing was left out."""
        return json.dumps(self._notes, ensure_ascii=False) if self._notes else ""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many values of each metric were left out."""
        return {name: note["count"] for name, note in self._notes.items()}

    def keep_storable(self, points: Iterable[Point]) -> Iterator[Point]:
        """Pass on the points that ClearML can hold, and count the others."""
        for point in points:
            if is_storable(point.value):
                yield point
            else:
                self.add(point)


def _parse(text: str) -> dict[str, dict[str, Any]]:
    try:
        notes = json.loads(text) if text else {}
        return {
            str(name): {
                "count": int(note["count"]),
                "first": int(note["first"]),
                "last": int(note["last"]),
                "values": [str(value) for value in note["values"]],
            }
            for name, note in notes.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        # Somebody edited the property: counting begins anew.
        return {}


def _word(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return "beyond 32-bit floats"


def _monitor(name: str) -> str:
    # Names of the SDK's own resource monitor; rank n writes "rank{n}/gpu…".
    return ":monitor:gpu" if "gpu" in name.lower() else ":monitor:machine"


def as_float(number: float | NonFinite) -> float:
    """A number on the wire as a float; a whole number beyond its range becomes an infinity."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if int(number) > 0 else -math.inf


def _checked(event: Event, seconds: float, step: int) -> tuple[int, int]:
    # Times a thousand, a number of seconds can be too large for a float.
    ms = to_ms(seconds) if 0 <= seconds <= _MAX_MS else -1
    if not 0 <= ms <= _MAX_MS or not -_MAX_INT64 <= step <= _MAX_INT64:
        raise PermanentSinkError(
            f"event {event.id} of {event.source}: time {seconds!r} or step {step} is out of range"
        )
    return ms, step
