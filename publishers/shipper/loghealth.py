"""What a shipper knows of the log group: who lives, which shards are idle, which sessions are new.

Pure: heartbeats and times in, advice out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bus.group.heartbeat import Heartbeat

__all__ = ["LogHealth", "ShardNews"]

SILENCE_SECONDS = 5.0
"""A log group not heard of for so long is away."""

WARN_AFTER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ShardNews:
    """What a heartbeat says about one shard.

    Attributes:
        is_new_session: Its session began empty since we last heard.
        is_idle: Nothing of it is in hand.
    """

    shard: int
    shards: int
    is_new_session: bool
    is_idle: bool


@dataclass(slots=True)
class LogHealth:
    """One shipper's view of the log group. Times are monotonic seconds."""

    started_at: float
    _heard_at: dict[str, float] = field(default_factory=dict)
    _last_heard_at: float = field(init=False)
    _tokens: dict[int, str] = field(default_factory=dict)
    _has_warned: bool = False

    def __post_init__(self) -> None:
        self._last_heard_at = self.started_at

    def heard(self, beat: Heartbeat, now: float) -> list[ShardNews]:
        """Take a heartbeat of a log worker."""
        if beat.has_left:
            self._heard_at.pop(beat.member, None)
            return []
        # Members have a new name at each start.
        for member in [m for m, at in self._heard_at.items() if now - at >= SILENCE_SECONDS]:
            del self._heard_at[member]
        self._heard_at[beat.member] = self._last_heard_at = now
        self._has_warned = False
        news = []
        for shard in beat.owned:
            token = beat.sessions.get(str(shard))
            is_new = token is not None and self._tokens.get(shard) != token
            if token is not None:
                self._tokens[shard] = token
            is_idle = shard in beat.idle
            if is_new or is_idle:
                news.append(ShardNews(shard, beat.shards, is_new, is_idle))
        return news

    def is_alive(self, now: float) -> bool:
        """A log worker was heard of lately."""
        return any(now - at < SILENCE_SECONDS for at in self._heard_at.values())

    def should_warn(self, now: float) -> bool:
        """True once when no log worker was heard of for 60 s."""
        if self._has_warned or now - self._last_heard_at < WARN_AFTER_SECONDS:
            return False
        self._has_warned = True
        return True
