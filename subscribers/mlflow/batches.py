"""How a plan is cut into ``log_batch`` calls: as few as MLflow's limits allow, marks last.

One call takes 1000 metrics, 100 params and 100 tags, 1000 in all. The server writes params first,
then metrics, then tags, and may be killed in between: so the marks stand in the call that ends the
data, and never before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

from bus.events import Event
from subscribers.mlflow.names import own_tag
from subscribers.mlflow.points import Point, points_of

__all__ = ["MAX_METRICS", "NonFiniteNotes", "Request", "chunks_of", "final_requests"]

MAX_METRICS = 1000
_MAX_PAIRS = 100
_MAX_ENTITIES = 1000
_MAX_PAIR_BYTES = 500_000
"""Of the names and values of one call, escaped: many proxies refuse bodies over a megabyte."""

_NOTE = "trainbus.nonfinite."


@dataclass(frozen=True, slots=True)
class Request:
    """One ``log_batch`` call."""

    points: list[Point] = field(default_factory=list)
    params: list[tuple[str, str]] = field(default_factory=list)
    tags: list[tuple[str, str]] = field(default_factory=list)


class NonFiniteNotes:
    """Which metrics had an infinity, and at which steps, as tags.

    A note only ever grows, so that writing a batch again changes nothing.
    """

    def __init__(self, tags: Mapping[str, str]) -> None:
        self._known = {key: value for key, value in tags.items() if key.startswith(_NOTE)}
        self.tags: dict[str, str] = {}

    def add(self, point: Point) -> None:
        """Note one infinite point."""
        tag = own_tag(_NOTE, point.key)
        low, high, words = self._read(tag, point.step)
        words.add("Infinity" if point.value > 0 else "-Infinity")
        low, high = min(low, point.step), max(high, point.step)
        self.tags[tag] = f"{' and '.join(sorted(words))}, logged as NaN; steps {low} to {high}"

    def _read(self, tag: str, step: int) -> tuple[int, int, set[str]]:
        text = self.tags.get(tag) or self._known.get(tag, "")
        words, _, steps = text.partition(", logged as NaN; steps ")
        low, _, high = steps.partition(" to ")
        try:
            return int(low), int(high), set(words.split(" and "))
        except ValueError:
            return step, step, set()


def chunks_of(events: Iterable[Event], notes: NonFiniteNotes) -> Iterator[list[Point]]:
    """The points of all events in full chunks; only the last may be shorter.

    Infinities become NaN and are noted.
    """
    chunk: list[Point] = []
    for event in events:
        for point in points_of(event):
            if math.isinf(point.value):
                notes.add(point)
                chunk.append(point._replace(value=math.nan))
            else:
                chunk.append(point)
            if len(chunk) == MAX_METRICS:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def final_requests(
    points: list[Point],
    params: Mapping[str, str],
    tags: Mapping[str, str],
    marks: Mapping[str, str],
) -> Iterator[Request]:
    """The calls that end a batch: its last points, its params and tags, and the marks with them.

    One call, unless there are more pairs than one takes or no room beside the points.
    """
    *early_params, last_params = _groups(params.items()) or [[]]
    *early_tags, last_tags = _groups(tags.items()) or [[]]
    for some_params, some_tags in zip_longest(early_params, early_tags):
        yield Request([], some_params or [], some_tags or [])
    first, *others = _groups([*last_tags, *marks.items()]) or [[]]
    if len(points) + len(last_params) + len(first) > _MAX_ENTITIES:
        yield Request(points)
        points = []
    if points or last_params or first:
        yield Request(points, last_params, first)
    for group in others:
        yield Request([], [], group)


def _groups(pairs: Iterable[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    groups: list[list[tuple[str, str]]] = []
    size = 0
    for pair in pairs:
        weight = len(json.dumps(pair))
        if not groups or len(groups[-1]) == _MAX_PAIRS or size + weight > _MAX_PAIR_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(pair)
        size += weight
    return groups
