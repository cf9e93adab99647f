"""Who calls a sink next, when not everybody may at once. Pure: times in, turns out.

Whoever wants to call asks for a turn. Turns are given by the sink's bucket (:mod:`bus.ratelimit`)
and its circuits (:mod:`bus.circuit`), the one that has waited longest first, with a handicap by
what a run has to say: lifecycle before params before checkpoints before metrics. The handicap is
a time, so that nothing starves: metrics stand behind what came up to thirty seconds later, and
before everything after that.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from bus.circuit import Circuits, pause_seconds
from bus.ratelimit import Rate, RunKey, TokenBucket

__all__ = ["HANDICAP_SECONDS", "LAST_RANK", "Turn", "Turns", "rank_of"]

HANDICAP_SECONDS = 10.0
"""For each rank."""

_RANKS = {
    **dict.fromkeys(("run_started", "run_finished", "phase"), 0),
    **dict.fromkeys(("params", "tags", "summary"), 1),
    **dict.fromkeys(("checkpoint", "model"), 2),
}
LAST_RANK = 3


def rank_of(kinds: Iterable[str]) -> int:
    """How urgent events are, from 0: that of the most urgent."""
    return min((_RANKS.get(kind, LAST_RANK) for kind in kinds), default=LAST_RANK)


@dataclass(slots=True, eq=False)
class Turn:
    """One run waiting to call the sink.

    Attributes:
        rank: How urgent it is, from 0.
        asked_at: When it came.
        is_limited: It had to wait for a token, and not only for the sink to work again.
        is_over: It was given, or is no longer wanted.
    """

    run: RunKey
    rank: int
    asked_at: float
    is_limited: bool = False
    is_over: bool = False

    @property
    def key(self) -> float:
        """The least goes first."""
        return self.asked_at + self.rank * HANDICAP_SECONDS


_Queue = list[tuple[float, int, Turn]]


@dataclass(slots=True)
class Turns:
    """Gives turns to the runs of one member.

    Attributes:
        bucket: The member's share of the sink's limit; None without one.
        paused_until: Until then the sink asked not to be called.
    """

    circuits: Circuits = field(default_factory=Circuits)
    bucket: TokenBucket | None = None
    paused_until: float = -math.inf
    _queues: dict[str, _Queue] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)
    _waiting: int = 0
    _scarce_at: float = -math.inf
    _retry_at: float = math.inf

    @classmethod
    def limited(cls, rate: Rate | None, now: float, circuits: Circuits | None = None) -> Turns:
        """With a limit, of which the member has no share yet."""
        is_limited = rate is not None and not rate.is_unlimited
        bucket = TokenBucket(rate, now, share=0.0) if rate is not None and is_limited else None
        return cls(circuits or Circuits(), bucket)

    def is_unlimited(self, now: float) -> bool:
        """There is neither a limit nor a pause."""
        return self.bucket is None and now >= self.paused_until

    def is_free(self, now: float) -> bool:
        """Anybody may call: nothing is limited, and nothing has failed."""
        return self.is_unlimited(now) and self.circuits.is_quiet

    @property
    def waiting(self) -> int:
        """How many turns are waited for."""
        return self._waiting

    def ask(self, run: RunKey, rank: int, now: float) -> Turn:
        """Stand in line; :meth:`due` says when it is this turn's time."""
        turn = Turn(run, rank, now)
        self._waiting += 1
        self._push(turn)
        return turn

    def hurry(self, turn: Turn, rank: int) -> None:
        """The run has got something more urgent to say."""
        if rank < turn.rank and not turn.is_over:
            turn.rank = rank
            self._push(turn)

    def withdraw(self, turn: Turn) -> None:
        """The turn is no longer wanted."""
        if not turn.is_over:
            turn.is_over = True
            self._waiting -= 1

    def due(self, now: float) -> list[Turn]:
        """The turns to be given now, in this order; their calls have begun."""
        given: list[Turn] = []
        self._retry_at = math.inf
        while self._waiting:
            wait = self._token_seconds(now)
            if wait > 0:
                self._scarce_at = now
                self._retry_at = now + wait
                break
            turn = self._choose(now)
            if turn is None:
                break
            self.withdraw(turn)
            turn.is_limited = self._scarce_at >= turn.asked_at
            if self.bucket is not None:
                self.bucket.take(now)
            self.circuits.begin(turn.run)
            given.append(turn)
        return given

    def retry_at(self) -> float:
        """When to ask for what is due again, unless something happens before; may be infinite."""
        return self._retry_at

    def give_back(self, run: RunKey, now: float) -> None:
        """A turn that was given was not used."""
        if self.bucket is not None:
            self.bucket.give_back(now)
        self.circuits.end(run)

    def spare(self, run: RunKey, now: float) -> bool:
        """Whether a call that can wait may be made now, which takes a token if so.

        Only what nobody needs: a token that a full bucket would lose. To be asked when what is
        :meth:`due` was given, so that whoever still waits does so for the sink or for a project.
        Such a call decides nothing about circuits.
        """
        if now < self.paused_until or self.circuits.wait_seconds(run[0], now) > 0:
            return False
        return self.bucket is None or self.bucket.take_spare(now)

    def pause(self, asked_seconds: float | None, now: float) -> None:
        """The sink asked for a pause: nobody calls it meanwhile."""
        self.paused_until = max(self.paused_until, now + pause_seconds(asked_seconds))

    def _token_seconds(self, now: float) -> float:
        bucket = 0.0 if self.bucket is None else self.bucket.wait_seconds(now)
        return max(bucket, self.paused_until - now)

    def _choose(self, now: float) -> Turn | None:
        """The next turn whose circuits let it; notes when to look again if there is none."""
        wait = self.circuits.sink_wait_seconds(now)
        if wait > 0:
            self._retry_at = now + wait
            return None
        best: tuple[bool, float, int] | None = None
        chosen: Turn | None = None
        for project in list(self._queues):
            head = self._head(project)
            if head is None:
                continue
            wait = self.circuits.wait_seconds(project, now)
            if wait > 0:
                self._retry_at = min(self._retry_at, now + wait)
                continue
            key, number, turn = head
            rating = (self.circuits.is_poor_probe(project), key, number)
            if best is None or rating < best:
                best, chosen = rating, turn
        return chosen

    def _head(self, project: str) -> tuple[float, int, Turn] | None:
        """The first turn of a project that is still wanted, at its present rank."""
        queue = self._queues[project]
        while queue:
            key, _, turn = queue[0]
            if not turn.is_over and key == turn.key:
                return queue[0]
            heapq.heappop(queue)
        del self._queues[project]
        return None

    def _push(self, turn: Turn) -> None:
        queue = self._queues.setdefault(turn.run[0], [])
        heapq.heappush(queue, (turn.key, next(self._numbers), turn))
