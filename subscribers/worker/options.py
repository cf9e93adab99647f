"""How a worker is started."""

from __future__ import annotations

from dataclasses import dataclass, field

from bus.group.membership import HEARTBEAT_SECONDS
from bus.ratelimit import RateLimits
from bus.topics import LOG_GROUP

__all__ = ["DEFAULT_GRACE_SECONDS", "DEFAULT_SHARDS", "LOG_GROUP", "WorkerOptions"]

DEFAULT_SHARDS = 8
DEFAULT_GRACE_SECONDS = 60.0
"""How long the log group waits for a silent node before it ends the node's part of a run."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker is started.

    Attributes:
        sink: Name of the sink, or "log".
        shards: Shards of its group; the same for all members.
        is_backfill: Catch up on runs from before the group existed.
        has_log: Use the event log; without it a worker holds messages instead of catching up.
        heartbeat_seconds: Between two heartbeats; the same for all members.
        grace_seconds: The log group takes a node for lost that was silent for so long.
        limits: How much the whole group may ask of the sink.
        has_chosen_shards: The number of shards was asked for; else that of the group's record in
            the event log counts.
    """

    sink: str
    shards: int = DEFAULT_SHARDS
    is_backfill: bool = False
    has_log: bool = True
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    grace_seconds: float = DEFAULT_GRACE_SECONDS
    limits: RateLimits = field(default_factory=RateLimits)
    has_chosen_shards: bool = False
