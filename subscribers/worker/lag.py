"""How far a worker is behind, in seconds."""

from __future__ import annotations

from collections.abc import Iterable

from bus.errors import EventError
from bus.events import decode_envelope
from bus.feed import RunFeed

__all__ = ["lag_seconds"]


def lag_seconds(feeds: Iterable[RunFeed], now: float, wall_now: float) -> float:
    """The age of the oldest event that waits to be written.

    Args:
        feeds: The runs at work.
        now: Monotonic, as in :attr:`bus.feed.Item.since`.
        wall_now: Unix seconds, as in events. A node whose clock is ahead has no lag.

    Returns:
        Seconds since it happened, or, of what is left to the event log, since it first came.
    """
    oldest = 0.0
    for feed in feeds:
        since = feed.let_go_since()
        if since is not None:
            oldest = max(oldest, now - since)
        for item in feed.heads():
            try:
                oldest = max(oldest, wall_now - decode_envelope(item.raw).time_seconds)
            except EventError:
                continue  # it becomes a dead letter
    return oldest
