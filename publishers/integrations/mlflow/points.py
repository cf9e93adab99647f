"""The metric points that this process has logged of one run, for those who ask for them.

MLflow's own calls ask: ``active_run().data.metrics``, and ``log_model``, which looks for the points
of the step it belongs to. A point takes 24 bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["MAX_POINTS", "Point", "Points"]

MAX_POINTS = 200_000
"""Points of one metric that are remembered; beyond them the older half is forgotten."""


class Point(NamedTuple):
    """One value.

    Attributes:
        ms: Unix milliseconds.
    """

    ms: int
    step: int
    value: float


class _Series:
    __slots__ = ("latest", "ms", "steps", "values")

    def __init__(self) -> None:
        self.ms = array("q")
        self.steps = array("q")
        self.values = array("d")
        self.latest: tuple[int, int, float] | None = None


class Points:
    """Points by the name of their metric. Not thread-safe."""

    def __init__(self, max_points: int = MAX_POINTS) -> None:
        self._series: dict[str, _Series] = {}
        self._max_points = max_points

    def add(self, key: str, point: Point) -> None:
        """Remember one.

        Raises:
            OverflowError: Its time or step is beyond 64 bits.
        """
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series()
        elif len(series.ms) >= self._max_points:
            half = len(series.ms) // 2
            del series.ms[:half], series.steps[:half], series.values[:half]
        ms, step, value = point
        series.steps.append(step)
        try:
            series.ms.append(ms)
        except OverflowError:
            series.steps.pop()
            raise
        series.values.append(value)
        # As MLflow decides it: the highest step, then the latest time, then the highest value.
        rank = (step, ms, value)
        if series.latest is None or not rank < series.latest:
            series.latest = rank

    def has(self, key: str, point: Point) -> bool:
        """Whether the same point is remembered."""
        series = self._series.get(key)
        if series is None or point.ms > series.ms[-1]:
            # Most are new: a training logs forward.
            return False
        at = -1
        try:
            while True:
                at = series.ms.index(point.ms, at + 1)
                if (series.steps[at], series.values[at]) == point[1:]:
                    return True
        except ValueError:
            return False

    def latest(self) -> Iterator[tuple[str, Point]]:
        """The latest point of every metric."""
        for key, series in self._series.items():
            if series.latest is not None:
                step, ms, value = series.latest
                yield key, Point(ms, step, value)

    def of(self, key: str) -> list[Point]:
        """The points of a metric, in the order they were logged."""
        series = self._series.get(key)
        if series is None:
            return []
        return [Point(*one) for one in zip(series.ms, series.steps, series.values, strict=True)]
