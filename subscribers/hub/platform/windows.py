"""Limits as Platform states them: so many requests in any minute, and in any day. Pure.

Requests are counted by slices of a window. None is made while the slices that a window may still
touch hold as many as the limit allows: never more than that in any window, at the price of waiting
up to one slice longer than is needed.
"""

from __future__ import annotations

from msgspec import Struct, field

__all__ = ["FREE", "PLANS", "PRO", "Plan", "Window"]

_MINUTE = 60.0
_DAY = 86_400.0


class Plan(Struct, frozen=True):
    """What a plan allows. Source: https://docs.ultralytics.com/platform/api, "Rate limits"."""

    per_minute: int
    per_day: int


FREE = Plan(60, 1000)
PRO = Plan(300, 50_000)
PLANS = {"free": FREE, "pro": PRO}


class Window(Struct):
    """Counts requests in a window of time.

    Attributes:
        limit: So many at the most,
        seconds: in any stretch of so long.
        slices: Into so many the window is cut.
        counts: Requests by the number of their slice.
    """

    limit: int
    seconds: float
    slices: int
    counts: dict[int, int] = field(default_factory=dict)

    @classmethod
    def minute(cls, plan: Plan) -> Window:
        """The limit per minute."""
        return cls(plan.per_minute, _MINUTE, 12)

    @classmethod
    def day(cls, plan: Plan) -> Window:
        """The limit per day."""
        return cls(plan.per_day, _DAY, 96)

    def used(self, now: float) -> int:
        """How many requests the window holds that ends now."""
        self._forget(now)
        return sum(self.counts.values())

    def wait_seconds(self, now: float) -> float:
        """How long until one more may be made; 0 when it may be now."""
        excess = self.used(now) - self.limit + 1
        for number in sorted(self.counts):
            if excess <= 0:
                break
            excess -= self.counts[number]
            freed_at = (number + 1 + self.slices) * self._slice
            if excess <= 0:
                return max(freed_at - now, 0.0)
        return 0.0

    def take(self, now: float) -> None:
        """Count one request."""
        number = int(now // self._slice)
        self.counts[number] = self.counts.get(number, 0) + 1

    @property
    def _slice(self) -> float:
        return self.seconds / self.slices

    def _forget(self, now: float) -> None:
        this = int(now // self._slice)
        # What lies ahead was counted by a clock that was put back since.
        for number in [one for one in self.counts if not this - self.slices <= one <= this + 1]:
            del self.counts[number]
