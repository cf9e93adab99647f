"""A pause that a tracker asked of one member holds for the whole group: pure.

Each member says in its heartbeats how long the pause asked of *itself* still lasts (the report's
``rate_asked_seconds``), and the others keep it by their own clock from then on. What was only heard
is not passed on: two members would keep a pause alive between them, each adding the time on the
way.

A member that is broken must not silence its group for ever: what one member says is heeded for
:data:`bus.circuit.MAX_PAUSE_SECONDS` without a break, and then no more until it has said that its
pause is over. Who has to wait longer than that is told so by the tracker itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bus.circuit import MAX_PAUSE_SECONDS, pause_seconds

__all__ = ["REPORT_KEY", "GroupPauses"]

REPORT_KEY = "rate_asked_seconds"
"""Where a heartbeat's report says how long the pause asked of its member still lasts."""

NEWS_SECONDS = 1.0
"""A pause that ends so much later than the others know of is told at once: a tracker that refuses
hundreds of calls asks for the same pause each time."""

REMEMBERED_MEMBERS = 1000


@dataclass(slots=True)
class GroupPauses:
    """The pauses of a group as one member knows them. Times are monotonic, of this member."""

    _asked_until: float = -math.inf
    _told_until: float = -math.inf
    _since: dict[str, float] = field(default_factory=dict)
    """Since when other members have spoken of a pause without a break."""

    def asked(self, seconds: float | None, now: float) -> bool:
        """The tracker asked this member for a pause; whether the others are to be told at once."""
        self._asked_until = max(self._asked_until, now + pause_seconds(seconds))
        if self._asked_until - max(self._told_until, now) < NEWS_SECONDS:
            return False
        self._told_until = self._asked_until
        return True

    def remaining_seconds(self, now: float) -> float:
        """How long the pause asked of this member still lasts; 0 when there is none."""
        return max(self._asked_until - now, 0.0)

    def heard(self, member: str, report: Mapping[str, Any], now: float) -> float:
        """Another member's heartbeat came: how long to pause from now on, 0 for not at all."""
        said = report.get(REPORT_KEY)
        is_number = isinstance(said, int | float) and not isinstance(said, bool)
        seconds = pause_seconds(said) if is_number else 0.0
        if seconds <= 0.0:
            self.left(member)
            return 0.0
        if len(self._since) >= REMEMBERED_MEMBERS and member not in self._since:
            del self._since[next(iter(self._since))]
        since = self._since.setdefault(member, now)
        return max(min(seconds, since + MAX_PAUSE_SECONDS - now), 0.0)

    def left(self, member: str) -> None:
        """The member has gone; the pause it spoke of goes on."""
        self._since.pop(member, None)
