"""How a run ended, from what its sources say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["SourceEnd", "run_status"]

_WORST_FIRST = ("failed", "killed", "completed")


@dataclass(frozen=True, slots=True)
class SourceEnd:
    """The end of one source; ``status`` is None while there is none."""

    rank: int
    attempt: int
    status: str | None


def run_status(ends: Iterable[SourceEnd]) -> str | None:
    """The worst status over the highest attempt of each rank; None while one goes on."""
    latest: dict[int, tuple[int, str | None]] = {}
    for end in ends:
        attempt, status = latest.get(end.rank, (0, None))
        if end.attempt > attempt:
            latest[end.rank] = (end.attempt, end.status)
        elif end.attempt == attempt:
            latest[end.rank] = (attempt, _worse(status, end.status))
    statuses = [status for _, status in latest.values()]
    if not statuses or None in statuses:
        return None
    return next((status for status in _WORST_FIRST if status in statuses), None)


def _worse(left: str | None, right: str | None) -> str | None:
    """Of two ends of the same attempt; one that ended outweighs one that did not."""
    return next((status for status in _WORST_FIRST if status in (left, right)), None)
