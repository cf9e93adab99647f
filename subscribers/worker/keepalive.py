"""Telling a tracker that runs are alive, also those that have nothing to write.

:class:`Schedule` decides which run is due (pure). :class:`KeepAlive` looks for the runs that are
under way (:mod:`subscribers.worker.underway`) and calls the sink (:class:`bus.sinks.KeepsAlive`): a
few at a time, only with what no write needs (:meth:`subscribers.worker.gate.SinkGate.spare`), and
once for each time that is due, whether it works or not.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import time
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from bus.errors import LogError, RetryableSinkError, SinkError
from bus.ratelimit import RunKey
from bus.sinks import KeepsAlive, RunRef
from bus.waiting import end_tasks, wait_for_event
from subscribers.worker.gate import SinkGate

__all__ = ["KeepAlive", "RunsUnderWay", "Schedule"]

logger = logging.getLogger(__name__)

AT_ONCE = 4
"""Calls under way at the most."""

LOOKED_AT = 100
"""So many of the runs that are due are asked for at a time, should the first have to wait."""

CALL_SECONDS = 30.0
"""A call that takes longer has failed."""

TICK_SECONDS = 0.5
LEARN_SECONDS = 30.0
"""How often runs are looked for; sooner when a shard was gained, or the interval is short."""
LEAST_LEARN_SECONDS = 2.0

CATCH_UP = 4.0
"""Where many are due at once, after a takeover for one, they are begun at so many times the rate
that the interval needs: all have had their turn after a quarter of it."""
SLACK_SECONDS = 1.0
"""What was not begun in time may be made up for so long."""

STOP_SECONDS = 1.0
"""How long a call that was cancelled is waited for."""

WARN_AGAIN_SECONDS = 3600.0
REMEMBERED_CAUSES = 100


@dataclass(slots=True)
class Schedule:
    """When each run is due. Times are monotonic.

    A run that is new here is due at once, for nobody knows when it was last told of; afterwards at
    times of its own, by a hash of its name, so that the calls for all runs are spread over the
    interval.

    Attributes:
        interval_seconds: From one call for a run to the next, at the most.
    """

    interval_seconds: float
    _at: dict[RunKey, float] = field(default_factory=dict)
    _times: list[tuple[float, RunKey]] = field(default_factory=list)
    """A heap; what is not in ``_at`` is out of date."""
    _late: dict[RunKey, None] = field(default_factory=dict)
    """Those that are due, in this order."""
    _next_start: float = -math.inf

    def __len__(self) -> int:
        return len(self._at)

    def follow(self, runs: Collection[RunKey], now: float) -> None:
        """These runs are under way, and no others."""
        for run in [run for run in self._at if run not in runs]:
            self._forget(run)
        for run in runs:
            if run not in self._at:
                self._at[run] = now
                self._late[run] = None

    def drop(self, is_gone: Callable[[RunKey], bool]) -> None:
        """Forget runs."""
        for run in [run for run in self._at if is_gone(run)]:
            self._forget(run)

    def due(self, now: float, most: int) -> list[RunKey]:
        """The first runs that are due, the one that has waited longest first."""
        while self._times and self._times[0][0] <= now:
            at, run = heapq.heappop(self._times)
            if self._at.get(run) == at:
                self._late[run] = None
        return list(islice(self._late, most))

    def may_begin(self, now: float) -> bool:
        """Whether another call may begin, for the pace's sake."""
        return now >= self._next_start

    def begun(self, run: RunKey, now: float) -> None:
        """The call for a run has begun: its next time is within the interval."""
        interval = self.interval_seconds
        gap = interval / (CATCH_UP * max(len(self._at), 1))
        self._next_start = max(self._next_start, now - SLACK_SECONDS) + gap
        phase = zlib.crc32("/".join(run).encode()) / 2**32
        at = (math.floor(now / interval - phase) + 1 + phase) * interval
        self._late.pop(run, None)
        self._at[run] = at
        heapq.heappush(self._times, (at, run))

    def postpone(self, run: RunKey) -> None:
        """The run cannot have its turn now: others that are due go before it."""
        if run in self._late:
            del self._late[run]
            self._late[run] = None

    def _forget(self, run: RunKey) -> None:
        del self._at[run]
        self._late.pop(run, None)


class RunsUnderWay(Protocol):
    """Where the runs that have started and not ended are looked for."""

    async def find(self) -> Mapping[RunKey, RunRef]:
        """Those of the worker's shards that are this sink's.

        Raises:
            LogError: Nobody can say now.
        """


class KeepAlive:
    """Keeps the runs of one worker alive in its sink.

    Args:
        sink: Whom to tell.
        runs: Where to look for runs.
        gate: Whose tokens are used, if any are left.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        sink: KeepsAlive,
        runs: RunsUnderWay,
        gate: SinkGate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._sink = sink
        self._runs = runs
        self._gate = gate
        self._clock = clock
        self._schedule = Schedule(max(sink.keep_alive_seconds, 1.0))
        self._refs: Mapping[RunKey, RunRef] = {}
        self._calls: dict[RunKey, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._learn_at = -math.inf
        self._learning: asyncio.Task[None] | None = None
        self._warned: dict[str, float] = {}
        self._told = 0
        self._failures = 0

    def learn_soon(self) -> None:
        """Other shards are ours now."""
        self._learn_at = -math.inf
        self._wake.set()

    async def run(self) -> None:
        """Call the sink whenever a run is due; never returns."""
        try:
            while True:
                self._wake.clear()
                self._learn_if_due()
                self._begin_due()
                await wait_for_event(self._wake, TICK_SECONDS)
        finally:
            await self._end(list(self._calls))
            if self._learning is not None:
                await end_tasks([self._learning])

    async def release(self, is_gone: Callable[[RunKey], bool]) -> None:
        """Forget runs, and break off the calls for them; takes a second at the most."""
        self._schedule.drop(is_gone)
        self._refs = {run: ref for run, ref in self._refs.items() if not is_gone(run)}
        await self._end([run for run in self._calls if is_gone(run)])

    def report(self) -> dict[str, Any]:
        """For the heartbeat."""
        return {
            "keep_alive_runs": len(self._schedule),
            "keep_alives": self._told,
            "keep_alive_failures": self._failures,
        }

    def _learn_if_due(self) -> None:
        """Look for runs, beside the calls: a log that hangs must not hold them up."""
        if self._learning is not None and self._learning.done():
            self._learning.result()  # an error of ours
            self._learning = None
        if self._learning is None and self._clock() >= self._learn_at:
            patience = min(LEARN_SECONDS, self._schedule.interval_seconds / 4)
            # Before it begins, so that a shard gained meanwhile is looked at again.
            self._learn_at = self._clock() + max(patience, LEAST_LEARN_SECONDS)
            self._learning = asyncio.create_task(self._learn())

    async def _learn(self) -> None:
        try:
            self._refs = await self._runs.find()
        except LogError as error:
            self._warn(f"cannot look for the runs to keep alive: {error}")
        else:
            self._schedule.follow(self._refs, self._clock())
            self._wake.set()

    def _begin_due(self) -> None:
        for run in self._schedule.due(self._clock(), LOOKED_AT):
            now = self._clock()
            if len(self._calls) >= AT_ONCE or not self._schedule.may_begin(now):
                return
            if run not in self._calls and self._gate.spare(run):
                self._schedule.begun(run, now)
                self._begin(run)
            else:
                self._schedule.postpone(run)

    def _begin(self, run: RunKey) -> None:
        call = asyncio.create_task(self._call(self._refs[run]), name=f"keep-alive {run[1]}")
        self._calls[run] = call
        call.add_done_callback(lambda task: self._on_done(run, task))

    def _on_done(self, run: RunKey, task: asyncio.Task[None]) -> None:
        if self._calls.get(run) is task:
            del self._calls[run]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s: keeping run %s alive", self._name, run[1], exc_info=error)
        self._wake.set()

    async def _call(self, run: RunRef) -> None:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self._sink.keep_alive(run)
        except RetryableSinkError as error:
            self._gate.asked_to_pause(error.retry_after_seconds)
            self._fail(run, str(error))
        except SinkError as error:
            self._fail(run, str(error))
        except TimeoutError:
            self._fail(run, f"no answer within {CALL_SECONDS:g} s")
        except Exception as error:  # noqa: BLE001  # a sink's error here must cost no write
            self._fail(run, f"{type(error).__name__}: {error}")
        else:
            self._told += 1

    def _fail(self, run: RunRef, reason: str) -> None:
        self._failures += 1
        # Many runs fail for one cause: whom it names is left out.
        self._warn(f"cannot keep runs alive: {reason.replace(run.run, '…')}")

    def _warn(self, cause: str) -> None:
        now = self._clock()
        if now - self._warned.get(cause, -math.inf) < WARN_AGAIN_SECONDS:
            return
        if len(self._warned) >= REMEMBERED_CAUSES:
            del self._warned[next(iter(self._warned))]
        self._warned.pop(cause, None)
        self._warned[cause] = now
        logger.warning("%s: %s", self._name, cause)

    async def _end(self, runs: list[RunKey]) -> None:
        """Break calls off. One that does not heed it is left behind: nobody waits for it."""
        calls = [call for run in runs if (call := self._calls.pop(run, None)) is not None]
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls, timeout=STOP_SECONDS)
