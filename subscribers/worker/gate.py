"""Where the runs of a worker wait before they call the sink: for tokens, and for its circuits.

:mod:`bus.turns` and :mod:`bus.ratelimit` decide; here is the waiting. Where nothing is limited and
nothing fails, passing costs a comparison or two.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from bus.errors import RetryableSinkError
from bus.group.pause import REPORT_KEY, GroupPauses
from bus.ratelimit import RateLimits, RunBuckets, RunKey
from bus.sinks import RunRef
from bus.topics import shard_of, slot_of
from bus.turns import LAST_RANK, Turn, Turns, rank_of
from bus.waiting import wait_for_event

__all__ = ["HeldBackError", "RunGate", "SinkGate", "StopWritingError"]

_SHORTEST_SECONDS = 0.001
"""Timers are not set closer: clocks and sums of floats are not exact."""

_FORGET_SECONDS = 15.0
_STOOD_STILL_SECONDS = 2.0


class StopWritingError(Exception):
    """The run is to be left as it is: the worker stops, or its shard has moved."""


class HeldBackError(Exception):
    """The write has to wait for a token of a kind it holds; others need not wait for it."""


class SinkGate:
    """The gate of one worker to its sink.

    Args:
        limits: What the whole group may do.
        shards: Shards of the group.
        clock: Monotonic seconds, as of the event loop.
        turns: For tests.
    """

    def __init__(
        self,
        limits: RateLimits | None = None,
        shards: int = 1,
        clock: Callable[[], float] = time.monotonic,
        turns: Turns | None = None,
    ) -> None:
        limits = limits or RateLimits()
        self.clock = clock
        self.turns = turns or Turns.limited(limits.sink, clock())
        self.buckets = RunBuckets(limits)
        self.pauses = GroupPauses()
        self.on_pause: Callable[[], None] = lambda: None
        """Called when the sink asked for a pause that the other members are to know of."""
        self.rate_waits = 0
        self.resting: set[RunKey] = set()
        """Runs that wait for tokens of their own."""
        self._shards = shards
        self._gained: dict[int, float] = {}
        self._futures: dict[Turn, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._forget_at = 0.0
        self._tended_at = clock()

    def gain(self, shard: int) -> None:
        """A shard is ours; nothing happens when it was before."""
        if shard not in self._gained:
            self._gained[shard] = self.clock()
            self._share()

    def lose(self, shards: Iterable[int]) -> None:
        """These shards are others' now."""
        for shard in shards:
            self._gained.pop(shard, None)
        self._share()

    def of(self, run: RunRef, stopping: asyncio.Event) -> RunGate:
        """The gate of one run; whoever waits there is let go of with an error on ``stopping``."""
        return RunGate(self, run, stopping)

    def gained_at(self, run: str) -> float:
        """Since when the shard of a run has been ours."""
        return self._gained.get(shard_of(slot_of(run), self._shards), self.clock())

    @property
    def is_free(self) -> bool:
        """Anybody may pass at once."""
        return self.buckets.is_unlimited and self.turns.is_free(self.clock())

    def ask(self, run: RunKey, rank: int) -> tuple[Turn, asyncio.Future[None]]:
        """Stand in line: the future is done when it is the run's turn."""
        turn = self.turns.ask(run, rank, self.clock())
        future = self._futures[turn] = asyncio.get_running_loop().create_future()
        self.dispatch()
        return turn, future

    def withdraw(self, turn: Turn) -> None:
        """The turn is no longer wanted, given or not."""
        if self._futures.pop(turn, None) is None:
            self.give_back(turn.run)
        else:
            self.turns.withdraw(turn)

    def give_back(self, run: RunKey) -> None:
        """A turn was given and is not used."""
        self.turns.give_back(run, self.clock())
        self.dispatch()

    def succeeded(self, run: RunKey) -> None:
        """A call worked."""
        if not self.turns.circuits.is_quiet:
            self.turns.circuits.succeed(run)
            self.dispatch()

    def failed(self, run: RunKey, error: RetryableSinkError) -> None:
        """A call failed for reasons that may pass."""
        self.turns.circuits.fail(run, str(error), self.clock(), error.retry_after_seconds)
        self.asked_to_pause(error.retry_after_seconds)

    def asked_to_pause(self, seconds: float | None) -> None:
        """The sink asked not to be called for so long; None when it did not."""
        now = self.clock()
        self.turns.pause(seconds, now)
        if self.pauses.asked(seconds, now):
            self.on_pause()
        self.dispatch()

    def heard(self, member: str, report: Mapping[str, Any]) -> None:
        """Another member's heartbeat came: a pause that it was asked for is ours too."""
        now = self.clock()
        seconds = self.pauses.heard(member, report, now)
        if seconds > 0:
            self.turns.pause(seconds, now)
            self.dispatch()

    def spare(self, run: RunKey) -> bool:
        """Whether a call that can wait may be made now: no write needs what it takes."""
        self.dispatch()
        return self.turns.spare(run, self.clock())

    def ended(self, run: RunKey) -> None:
        """A call ended, and nothing is known of the sink by it."""
        if not self.turns.circuits.is_quiet:
            self.turns.circuits.end(run)
            self.dispatch()

    def dispatch(self) -> None:
        """Give the turns that are due, and look again when the next may be."""
        now = self.clock()
        for turn in self.turns.due(now):
            self._futures.pop(turn).set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        retry_at = self.turns.retry_at()
        if self.turns.waiting and math.isfinite(retry_at):
            delay = max(retry_at - now, _SHORTEST_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(delay, self.dispatch)

    def tend(self, now: float) -> None:
        """Drop what is as good as new; to be called several times a second."""
        if now - self._tended_at > _STOOD_STILL_SECONDS and self.turns.bucket is not None:
            # We were paused: others have had our shards, and used what gathered here.
            self.turns.bucket.empty(now)
        self._tended_at = now
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_SECONDS
            self.buckets.forget(now)

    def report(self) -> dict[str, Any]:
        """For the heartbeat."""
        now = self.clock()
        queued = 0 if self.turns.is_unlimited(now) else self.turns.waiting
        return {
            "rate_waits": self.rate_waits,
            "rate_waiting_runs": len(self.resting) + queued,
            "rate_paused_seconds": round(max(self.turns.paused_until - now, 0.0), 1),
            REPORT_KEY: round(self.pauses.remaining_seconds(now), 2),
            "circuit": self.turns.circuits.report(now),
        }

    def _share(self) -> None:
        if self.turns.bucket is not None:
            share = min(len(self._gained) / self._shards, 1.0)
            self.turns.bucket.set_share(share, self.clock())
            self.dispatch()


class RunGate:
    """The gate of one run, whose calls never overlap.

    Attributes:
        rank: How urgent its next events are (:func:`bus.turns.rank_of`).
        was_limited: The turn that is held had to wait for tokens.
    """

    def __init__(self, gate: SinkGate, run: RunRef, stopping: asyncio.Event) -> None:
        self.rank = LAST_RANK
        self.was_limited = False
        self._gate = gate
        self._run: RunKey = (run.project, run.run)
        self._stopping = stopping
        self._has_parked = False
        self._gathered_since = 0.0
        self._turn: Turn | None = None
        self._has_turn = False

    @property
    def is_free(self) -> bool:
        """There is nothing to wait for."""
        return self._gate.is_free

    def opened(self, is_new: bool) -> None:
        """The run was opened in the sink; ``is_new`` when nothing was ever written to it."""
        self._gathered_since = -math.inf if is_new else self._gate.gained_at(self._run[1])
        self._begin()
        # From now on a bucket that is not there was full when it was dropped.
        self._gathered_since = -math.inf

    def hurry(self, kind: str) -> None:
        """An event of this kind has come."""
        self.rank = min(self.rank, rank_of((kind,)))
        if self._turn is not None:
            self._gate.turns.hurry(self._turn, self.rank)

    def rest(self, is_resting: bool) -> None:
        """Whether the run waits for tokens of its own."""
        if not is_resting:
            self._gate.resting.discard(self._run)
        elif self._run not in self._gate.resting:
            self._gate.resting.add(self._run)
            self._gate.rate_waits += 1

    def park(self, has_parked: bool) -> None:
        """Whether events of the run wait for tokens of their kinds, whatever else it does."""
        self._has_parked = has_parked
        self.rest(has_parked)

    @property
    def has_kind_limits(self) -> bool:
        """Some kind has a limit of its own."""
        return bool(self._gate.buckets.kinds)

    def has_tokens(self, kind: str, tokens: int) -> bool:
        """Whether so many events of a kind could be written one by one, without a wait."""
        return self._gate.buckets.has_tokens(self._run, self._gate.clock(), kind, tokens)

    def kind_wait_seconds(self, kinds: Iterable[str]) -> float:
        """How long until one of these kinds has a token."""
        return self._gate.buckets.kind_wait_seconds(self._run, self._gate.clock(), kinds)

    def blocked(self) -> frozenset[str]:
        """The kinds that have to wait for tokens of their own."""
        if not self._gate.buckets.kinds:
            return frozenset()
        return self._gate.buckets.blocked(self._run, self._gate.clock())

    async def ready(self) -> None:
        """Wait until the run may write, and hold the turn for the next :meth:`enter`.

        Raises:
            StopWritingError: The run is to stop.
        """
        if self._has_turn:
            return
        self.was_limited = await self._wait_tokens()
        self.was_limited |= await self._wait_turn()
        self._has_turn = True

    async def enter(self, kinds: Collection[str] | None) -> None:
        """Wait until the run may call the sink, and take the tokens; the call is to begin now.

        Args:
            kinds: Of the events it is to write, those whose tokens it needs; None when it only
                opens the run.

        Raises:
            HeldBackError: One of the kinds has no token.
            StopWritingError: The run is to stop.
        """
        if self._has_turn:
            self._has_turn = False
        elif self._gate.is_free:
            return
        else:
            if kinds is not None:
                if not self.blocked().isdisjoint(kinds):
                    raise HeldBackError
                await self._wait_tokens()
            await self._wait_turn()
        if kinds is not None and not self._gate.buckets.is_unlimited:
            self._begin()
            self._gate.buckets.take(self._run, self._gate.clock(), kinds)

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Around a call of the sink: its outcome decides about the calls of others."""
        try:
            yield
        except RetryableSinkError as error:
            self._gate.failed(self._run, error)
            raise
        except BaseException:
            # A refusal may be made without asking the tracker.
            self._gate.ended(self._run)
            raise
        self._gate.succeeded(self._run)

    def give_back(self) -> None:
        """The turn that is held, if any, is not used."""
        if self._has_turn:
            self._has_turn = False
            self._gate.give_back(self._run)

    def _begin(self) -> None:
        now = self._gate.clock()
        self._gate.buckets.begin(self._run, now, now - self._gathered_since)

    async def _wait_tokens(self) -> bool:
        """Wait for the run's own tokens; whether that took time."""
        has_waited = False
        if self._gate.buckets.is_unlimited:
            return has_waited
        self._begin()
        buckets, clock = self._gate.buckets, self._gate.clock
        try:
            while (wait := buckets.wait_seconds(self._run, clock())) > 0:
                has_waited = True
                self.rest(True)
                await wait_for_event(self._stopping, max(wait, _SHORTEST_SECONDS))
                self._check()
        finally:
            self.rest(self._has_parked)
        return has_waited

    async def _wait_turn(self) -> bool:
        """Wait for a turn of the sink; whether tokens were what it waited for."""
        self._check()
        turn, future = self._gate.ask(self._run, self.rank)
        if not future.done():
            await self._wait_given(turn, future)
        self._gate.rate_waits += turn.is_limited
        return turn.is_limited

    async def _wait_given(self, turn: Turn, future: asyncio.Future[None]) -> None:
        self._turn = turn
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((future, stop), return_when=asyncio.FIRST_COMPLETED)
            self._check()
        except BaseException:
            self._gate.withdraw(turn)
            raise
        finally:
            self._turn = None
            stop.cancel()

    def _check(self) -> None:
        if self._stopping.is_set():
            raise StopWritingError
