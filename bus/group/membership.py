"""Who is in the group, as one member sees it: heartbeats and times in, owned shards out.

Rules, each there because its absence was seen to lose or double events:

- A member claims nothing until it has listened for three heartbeats, so that a newcomer learns of
  the others first.
- A member whose own link is lost owns nothing (fails closed): the others cannot hear it.
- After its link returns it goes on with the members it knew, each given three heartbeats to be
  heard again: a broker that restarts costs no listening.
- Times are the receiver's monotonic clock; the clocks of other machines are never compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bus.group.assignment import assign

__all__ = ["HEARTBEAT_SECONDS", "MISSED_HEARTBEATS", "Membership"]

HEARTBEAT_SECONDS = 1.0
MISSED_HEARTBEATS = 3
"""So many heartbeats are listened for before claiming, and missed before a member is gone."""


@dataclass(slots=True)
class Membership:
    """One member's view of its group.

    Attributes:
        me: This member's name.
        shards: How many shards the group has.
        interval_seconds: Between two heartbeats of a member.
    """

    me: str
    shards: int
    interval_seconds: float = HEARTBEAT_SECONDS
    _heard: dict[str, float] = field(default_factory=dict)
    _claims_from: float | None = None
    _has_listened: bool = False
    _other_shards: dict[str, int] = field(default_factory=dict)

    @property
    def patience_seconds(self) -> float:
        """How long a member may be silent."""
        return self.interval_seconds * MISSED_HEARTBEATS

    def link_up(self, now: float) -> None:
        """Our link to the broker works (again)."""
        self._claims_from = now if self._has_listened else now + self.patience_seconds
        for member in self._heard:
            self._heard[member] = now

    def link_down(self) -> None:
        """Our link to the broker is lost: from now on we own nothing."""
        self._claims_from = None

    def heard(self, member: str, shards: int, now: float) -> None:
        """A heartbeat of a member arrived; ``shards`` is the count it was started with."""
        if member == self.me:
            return
        self._heard[member] = now
        self._other_shards[member] = shards

    def left(self, member: str) -> None:
        """A member said good-bye, or the broker published its last will."""
        self._heard.pop(member, None)
        self._other_shards.pop(member, None)

    def members(self, now: float) -> list[str]:
        """Everybody heard of lately, this member included."""
        for member in [m for m, at in self._heard.items() if now - at > self.patience_seconds]:
            self.left(member)
        return sorted([self.me, *self._heard])

    def conflict(self) -> tuple[str, int] | None:
        """A member that was started with another number of shards, and that number."""
        for member, shards in self._other_shards.items():
            if shards != self.shards:
                return member, shards
        return None

    def owned(self, now: float) -> frozenset[int]:
        """The shards this member is to own now."""
        if self._claims_from is None or now < self._claims_from or self.conflict():
            return frozenset()
        self._has_listened = True
        return assign(self.members(now), self.shards)[self.me]
