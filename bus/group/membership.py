"""Who is in the group, as one member sees it: heartbeats and times in, owned shards out.

Rules, each there because its absence was seen to lose or double events:

- A member claims nothing until it has listened for three heartbeats, so that a newcomer learns of
  the others first.
- A member whose own link is lost owns nothing (fails closed): the others cannot hear it.
- After its link returns it goes on with the members it knew, each given three heartbeats to be
  heard again: a broker that restarts costs no listening.
- A newcomer with another number of shards is refused, and never the group: who has claimed and
  heard no stranger right after its link came up works on as if the stranger were not there.
- A newcomer counts once it has been heard for one and a half heartbeats, half of its own listening:
  one that comes and goes moves nothing, and several that come together move shards once.
- Times are the receiver's monotonic clock; the clocks of other machines are never compared.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from bus.group.assignment import assign

__all__ = ["HEARTBEAT_SECONDS", "MISSED_HEARTBEATS", "Membership"]

HEARTBEAT_SECONDS = 1.0
SETTLING_HEARTBEATS = 1.5
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
    _first_heard: dict[str, float] = field(default_factory=dict)
    _holds: dict[str, frozenset[int]] = field(default_factory=dict)
    _link_up_at: float | None = None
    _has_listened: bool = False
    _strangers: dict[str, tuple[int, bool, float]] = field(default_factory=dict)
    """Members with another number of shards: that number, whether they own any, when heard."""

    @property
    def patience_seconds(self) -> float:
        """How long a member may be silent."""
        return self.interval_seconds * MISSED_HEARTBEATS

    def link_up(self, now: float) -> None:
        """Our link to the broker works (again), or we ourselves stood still and go on."""
        self._link_up_at = now
        for member in self._heard:
            self._heard[member] = now

    def link_down(self) -> None:
        """Our link to the broker is lost: from now on we own nothing."""
        self._link_up_at = None

    def heard(
        self, member: str, shards: int, now: float, holds: Collection[int] = frozenset()
    ) -> None:
        """A heartbeat of a member arrived.

        Args:
            member: Its name.
            shards: The number of shards it was started with.
            now: When.
            holds: The shards whose sessions it holds.
        """
        if member == self.me:
            return
        if shards == self.shards:
            self._heard[member] = now
            self._first_heard.setdefault(member, now)
            self._holds[member] = frozenset(holds)
            return
        self._strangers[member] = (shards, bool(holds), now)

    def left(self, member: str) -> None:
        """A member said good-bye, or the broker published its last will."""
        self._heard.pop(member, None)
        self._first_heard.pop(member, None)
        self._holds.pop(member, None)
        self._strangers.pop(member, None)

    def members(self, now: float) -> list[str]:
        """Everybody heard of lately, this member included."""
        for member in [m for m, at in self._heard.items() if now - at > self.patience_seconds]:
            self.left(member)
        return sorted([self.me, *self._heard])

    def held_by_others(self, now: float) -> frozenset[int]:
        """The shards whose sessions are held, by what the others say that we hear."""
        self.members(now)
        return frozenset().union(*self._holds.values())

    def conflict(self, now: float) -> tuple[str, int] | None:
        """A member with another number of shards that we have to give way to, and that number."""
        for member in [
            m for m, (_, _, at) in self._strangers.items() if now - at > self.patience_seconds
        ]:
            self.left(member)
        if self._has_listened and not self._is_listening(now):
            return None
        for member, (shards, is_owner, _) in self._strangers.items():
            if is_owner or not self._has_listened:
                return member, shards
        return None

    def owned(self, now: float, holds: Collection[int] = frozenset()) -> frozenset[int]:
        """The shards this member is to own now, of which it ``holds`` these."""
        if self._link_up_at is None or self.conflict(now):
            return frozenset()
        if not self._has_listened and self._is_listening(now):
            return frozenset()
        self._has_listened = True
        held = {**self._holds, self.me: holds}
        members = [member for member in self.members(now) if self._has_settled(member, now)]
        return assign(members, self.shards, held)[self.me]

    def _has_settled(self, member: str, now: float) -> bool:
        """Whether a member counts: we do, who holds shards does, a newcomer after a while."""
        if member == self.me or self._holds.get(member):
            return True
        return now - self._first_heard[member] >= SETTLING_HEARTBEATS * self.interval_seconds

    def _is_listening(self, now: float) -> bool:
        """Three heartbeats have not passed since our link came up."""
        return self._link_up_at is not None and now < self._link_up_at + self.patience_seconds
