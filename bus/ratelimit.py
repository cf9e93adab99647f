"""Rate limits: token buckets that take times and say how long to wait. Pure.

A token is one request: one call of ``open_run``, ``write`` or ``keep_alive`` of a sink, attempts
that fail included. The limit of the sink counts all of them. The limit of a run counts the writes
of that run; the limit of a kind counts those writes of a run that hold an event of the kind. The
search for the culprit in a write that is refused belongs to that write, and so do the few tries
after an error that the sink does not know; a try after any other failure is another write.

**The final checkpoint is not held to the limit of its kind** (:func:`is_unlimited`): the client of
Ultralytics HUB uploads one checkpoint in 900 s, and the final model at once.

**Shared.** The sink's limit is the group's. Every member has the part that its shards are of all:
rate and burst times owned / shards. What a member gains begins empty and what it gives up is gone,
so that the group stays below its limit while shards move: no more than ``rate * seconds + burst``
requests in any stretch of time. Only a burst smaller than the number of members is exceeded: each
member may always have one token, else it could never make a request. A run belongs to one shard,
and so to one member: its limits are not divided.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bus.errors import ConfigError
from bus.kinds import KINDS, Checkpoint, KindData

__all__ = [
    "UNLIMITED",
    "Rate",
    "RateLimits",
    "RunBuckets",
    "RunKey",
    "TokenBucket",
    "is_unlimited",
]

_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "hour": 3600.0, "day": 86_400.0}
_FORM = re.compile(r"(\d+(?:\.\d+)?) */ *([a-z]+)(?: +burst +(\d+(?:\.\d+)?))?", re.ASCII)
_FORMS = "use 20/s, 60/min, 4/hour, 1000/day, '20/s burst 40', or unlimited"

_ROUNDING = 1e-6
"""Of a token: what sums of floats may lack of the whole one that was waited for."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many tokens per second on average, and at most ``burst`` at once after a quiet time.

    Raises:
        ConfigError: No token would ever come, or the burst holds less than one.
    """

    tokens_per_second: float
    burst: float

    def __post_init__(self) -> None:
        if not self.tokens_per_second > 0:
            raise ConfigError(f"a rate must be above 0: {_FORMS}")
        if not self.burst >= 1:
            raise ConfigError(f"burst {self.burst:g}: must be 1 or more")

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read ``20/s``, ``60/min``, ``4/hour``, ``1000/day``, ``20/s burst 40`` or ``unlimited``.

        The burst is by default what one second brings, but at least one.

        Raises:
            ConfigError: It is none of them.
        """
        if text.strip() == "unlimited":
            return UNLIMITED
        found = _FORM.fullmatch(text.strip())
        if found is None or found[2] not in _UNITS:
            raise ConfigError(f"{text!r} is no rate: {_FORMS}")
        per_second = float(found[1]) / _UNITS[found[2]]
        return cls(per_second, float(found[3]) if found[3] else max(per_second, 1.0))

    @property
    def is_unlimited(self) -> bool:
        """There is no limit."""
        return math.isinf(self.tokens_per_second)

    def __str__(self) -> str:
        if self.is_unlimited:
            return "unlimited"
        return f"{self.tokens_per_second:g}/s burst {self.burst:g}"


UNLIMITED = Rate(math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits of one sink; None where nothing is said, which means unlimited.

    Attributes:
        sink: All requests of the group.
        run: The writes of each run.
        kinds: Per kind, the writes of each run that hold an event of it.
    """

    sink: Rate | None = None
    run: Rate | None = None
    kinds: Mapping[str, Rate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f"no kind {kind!r}; there are: {', '.join(sorted(KINDS))}")

    def or_else(self, other: RateLimits) -> RateLimits:
        """These limits, and those of ``other`` where these say nothing."""
        kinds = {**other.kinds, **self.kinds}
        return RateLimits(self.sink or other.sink, self.run or other.run, kinds)


def is_unlimited(data: KindData) -> bool:
    """Whether an event is not held to the limit of its kind, and takes none of its tokens."""
    return isinstance(data, Checkpoint) and data.is_final


class TokenBucket:
    """The tokens of one limit, or of a member's share of it. Times are of one monotonic clock.

    Args:
        rate: The whole limit.
        now: The time.
        tokens: What it begins with.
        share: The part of rate and burst that this bucket has, from 0 to 1.
    """

    __slots__ = ("_rate", "_share", "_since", "_tokens")

    def __init__(self, rate: Rate, now: float, tokens: float = 0.0, share: float = 1.0) -> None:
        self._rate = rate
        self._share = share
        self._tokens = min(tokens, self._capacity)
        self._since = now

    def wait_seconds(self, now: float) -> float:
        """How long until a token is there: 0 when there is one, infinite without a share."""
        if self._share == 0.0:
            return math.inf
        lacking = 1.0 - self._tokens_at(now)
        return lacking / (self._rate.tokens_per_second * self._share) if lacking > _ROUNDING else 0

    def holds(self, tokens: int, now: float) -> bool:
        """So many tokens are there."""
        return self._tokens_at(now) >= tokens - _ROUNDING

    def take(self, now: float) -> None:
        """Take one token, which must be there."""
        self._tokens, self._since = self._tokens_at(now) - 1.0, now

    def take_spare(self, now: float) -> bool:
        """Take one token if the bucket is full, so that it would be lost; whether it was taken."""
        if self._share == 0.0 or self._tokens_at(now) < self._capacity - _ROUNDING:
            return False
        self.take(now)
        return True

    def give_back(self, now: float) -> None:
        """The token was not used."""
        self._tokens, self._since = min(self._tokens_at(now) + 1.0, self._capacity), now

    def set_share(self, share: float, now: float) -> None:
        """Another part of the limit from now on; what is gained begins empty."""
        self._tokens, self._since = self._tokens_at(now), now
        self._share = share

    def empty(self, now: float) -> None:
        """Whatever was there is gone."""
        self._tokens, self._since = min(self._tokens_at(now), 0.0), now

    def is_full(self, now: float) -> bool:
        """It has been left alone for so long that it is as good as new."""
        return self._tokens_at(now) >= self._capacity

    @property
    def _capacity(self) -> float:
        return max(self._rate.burst * self._share, 1.0) if self._share else 0.0

    def _tokens_at(self, now: float) -> float:
        gained = self._rate.tokens_per_second * self._share * max(now - self._since, 0.0)
        return min(self._tokens + gained, self._capacity)


RunKey = tuple[str, str]
"""Project and run."""


class RunBuckets:
    """The buckets of all runs of a member: one for the run, one for each kind that has a limit.

    A bucket is made when it is first needed, with what has gathered since the member has the run's
    shard: the member before may have used the rest. A run that is new to the sink begins with all.
    Buckets that are full again are forgotten.
    """

    def __init__(self, limits: RateLimits) -> None:
        rates = {"": limits.run, **limits.kinds}
        self._rates = {kind: r for kind, r in rates.items() if r and not r.is_unlimited}
        self._buckets: dict[tuple[RunKey, str], TokenBucket] = {}

    @property
    def is_unlimited(self) -> bool:
        """There is nothing to ask."""
        return not self._rates

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that have a limit."""
        return frozenset(self._rates) - {""}

    def begin(self, run: RunKey, now: float, gathered_seconds: float) -> None:
        """Make the buckets of a run that are not there.

        Args:
            run: The run.
            now: The time.
            gathered_seconds: How long its tokens have been gathering here; infinite for a run that
                nobody has written to.
        """
        for kind, rate in self._rates.items():
            if (run, kind) not in self._buckets:
                tokens = rate.tokens_per_second * gathered_seconds
                self._buckets[run, kind] = TokenBucket(rate, now, tokens)

    def wait_seconds(self, run: RunKey, now: float, kinds: Iterable[str] = ()) -> float:
        """How long until the run may write a batch with events of these kinds."""
        waits = (bucket.wait_seconds(now) for bucket in self._of(run, kinds))
        return max(waits, default=0.0)

    def blocked(self, run: RunKey, now: float) -> frozenset[str]:
        """The kinds that the run may not write now."""
        found = ((kind, self._buckets.get((run, kind))) for kind in self.kinds)
        return frozenset(kind for kind, bucket in found if bucket and bucket.wait_seconds(now))

    def kind_wait_seconds(self, run: RunKey, now: float, kinds: Iterable[str]) -> float:
        """How long until there is a token of one of these kinds, of those that have a limit."""
        found = (self._buckets.get((run, kind)) for kind in self.kinds.intersection(kinds))
        return min((bucket.wait_seconds(now) for bucket in found if bucket), default=0.0)

    def has_tokens(self, run: RunKey, now: float, kind: str, tokens: int) -> bool:
        """Whether the run could write so many events of a kind one by one, without a wait."""
        bucket = self._buckets.get((run, kind))
        return bucket is None or bucket.holds(tokens, now)

    def take(self, run: RunKey, now: float, kinds: Iterable[str] = ()) -> None:
        """Take the tokens of one write, which must be there."""
        for bucket in self._of(run, kinds):
            bucket.take(now)

    def forget(self, now: float) -> None:
        """Drop the buckets that are full."""
        full = [key for key, bucket in self._buckets.items() if bucket.is_full(now)]
        for key in full:
            del self._buckets[key]

    def _of(self, run: RunKey, kinds: Iterable[str]) -> list[TokenBucket]:
        found = (self._buckets.get((run, kind)) for kind in {"", *kinds})
        return [bucket for bucket in found if bucket is not None]
