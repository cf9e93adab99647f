"""Who stays away from a shard that two members take from each other: times in, decisions out. Pure.

The broker gives the session of a shard to whoever connected last. Two members whose views of the
group differ for longer, since one does not hear the other or neither does, both claim the shard,
and would take it from each other for ever. They cannot be asked to agree: that they do not hear
each other is the fault. So each decides by what it knows anyway:

- A session lost for the first time is opened again after the short backoff of any lost link.
- **Who hears, yields.** While a member that we hear says that it holds the session, we leave it
  there: it lets go of it by itself if it hears us. Where only one of two hears the other, it is the
  one that hears which yields, and the contest ends with the first swap or the second.
- **Who stood, stays.** Where neither hears the other, who loses the session twice in a row, without
  having held it for :attr:`ContestPolicy.stand_seconds` in between, stays away for a while, and the
  next time for longer. The losses of two members alternate, so that one of them comes to that
  first. The other has held the session for long enough when it is tried again; for it that is a
  first loss, and it is back at once.

So a contest of two costs at the most five swaps within its first minute, and two for each further
try. It is over when the other lets go of the session, or when a member appears that we did not hear
before. That another lets go of it ends a contest only once in the longest wait: of three that hear
each other in a circle, one always sees the session taken from the one it has yielded to.

Losses count only while the member's own link stands: without it a member owns nothing anyway.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from bus.retry import Backoff

__all__ = ["Contest", "ContestPolicy", "Contests"]


@dataclass(frozen=True, slots=True)
class ContestPolicy:
    """How long a contested shard is left alone.

    Attributes:
        stand_seconds: A session held for so long was not contested. Longer than the other side
            takes to come back after its first loss: up to 5 s on NATS, which leaves a client id
            that comes back within a second without an answer.
        away_seconds: How long to stay away after the second loss in a row, the third, and so on;
            the last one holds for all that follow. Each longer than ``stand_seconds``. The last is
            also how long a shard may be without an owner when the other dies unheard.
    """

    stand_seconds: float = 8.0
    away_seconds: tuple[float, ...] = (15.0, 60.0)

    def away(self, losses: int) -> float:
        """How long to stay away after so many losses in a row; 0 after the first."""
        if losses < 2:
            return 0.0
        return self.away_seconds[min(losses - 2, len(self.away_seconds) - 1)]


@dataclass(slots=True)
class Contest:
    """What one member knows of the fight for one shard.

    Attributes:
        losses: How often in a row the session was lost without having stood.
    """

    policy: ContestPolicy = field(default_factory=ContestPolicy)
    uniform: Callable[[], float] = random.random
    losses: int = 0
    _backoff: Backoff = field(init=False)
    _opened_at: float | None = None
    _away_until: float = -math.inf
    _was_held: bool = False
    _freed_at: float = -math.inf

    def __post_init__(self) -> None:
        self._backoff = Backoff(uniform=self.uniform)

    def opened(self, now: float) -> None:
        """The broker gave us the session."""
        self._opened_at = now

    def lost(self, now: float) -> float:
        """The session was lost while our own link stands; gives how long to wait at least."""
        if self._opened_at is not None and now - self._opened_at >= self.policy.stand_seconds:
            self.over()
        self._opened_at = None
        self.losses += 1
        # Members that were cut off together come back apart.
        self._away_until = now + self.policy.away(self.losses) * (1 + self.uniform() / 5)
        return self._backoff.next_seconds()

    def failed(self) -> float:
        """The session could not be opened; gives how long to wait."""
        self._opened_at = None
        return self._backoff.next_seconds()

    def over(self) -> None:
        """Nobody contests the shard any more: the next loss is the first."""
        self.losses = 0
        self._away_until = -math.inf
        self._was_held = False
        self._backoff.reset()

    def is_away(self, now: float, *, is_held: bool) -> bool:
        """Whether the session is to be left alone.

        Args:
            now: The time.
            is_held: A member that we hear says that it holds the session.
        """
        if self._opened_at is not None or not self.losses:
            return False
        if is_held:
            self._was_held = True
            return True
        if self._was_held:
            self._was_held = False  # the other has let go of it, or is gone
            if now - self._freed_at >= self.policy.away_seconds[-1]:
                self._freed_at = now
                self.over()
        return now < self._away_until


@dataclass(slots=True)
class Contests:
    """The contests of one member, by shard.

    Attributes:
        away: The shards that were to be left alone at the last look.
    """

    policy: ContestPolicy = field(default_factory=ContestPolicy)
    away: frozenset[int] = frozenset()
    _contests: dict[int, Contest] = field(default_factory=dict)

    def of(self, shard: int) -> Contest:
        """The contest of a shard, which may have none."""
        return self._contests.setdefault(shard, Contest(self.policy))

    def look(self, owned: Collection[int], now: float, held: Collection[int]) -> frozenset[int]:
        """What is left of the shards that are to be ours, without those to be left alone.

        Args:
            owned: What the assignment gives us; contests for other shards are forgotten.
            now: The time.
            held: What members that we hear say they hold.
        """
        self._contests = {k: contest for k, contest in self._contests.items() if k in owned}
        self.away = frozenset(
            shard
            for shard, contest in self._contests.items()
            if contest.is_away(now, is_held=shard in held)
        )
        return frozenset(owned) - self.away

    def over(self) -> None:
        """A member appeared that we did not hear before: all are judged anew."""
        for contest in self._contests.values():
            contest.over()

    def clear(self) -> None:
        """Our own link is lost: we own nothing."""
        self._contests.clear()
        self.away = frozenset()
