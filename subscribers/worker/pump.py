"""The task of one run: takes what the feed has, reads what is missing from the log, writes it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Iterable

from bus.errors import LogError, MarksMovedError, PermanentSinkError
from bus.eventlog.aio import AsyncEventLog
from bus.feed import Item, RunFeed
from bus.mqtt import Delivery
from bus.retry import Backoff, RetryPolicy
from bus.sinks import RunRef, Sink
from bus.superseded import Id, split_blocked, superseded
from bus.turns import rank_of
from bus.waiting import end_tasks, wait_for_event
from subscribers.worker.gate import SinkGate, StopWritingError
from subscribers.worker.writer import BatchWriter, DeadLetterKeeper, WriterStats

__all__ = ["RunPump"]

logger = logging.getLogger(__name__)

# How often a run that waits for something looks again by itself; messages wake it at once. Also how
# often the log is asked for one source of a run while another has events here.
LOOK_AGAIN_SECONDS = 0.5
LOOK_AHEAD_SECONDS = 5.0
_ENDLESS = 2**53

_LOG_RETRY = RetryPolicy(initial_seconds=0.5, cap_seconds=10.0)


class RunPump:
    """Moves the events of one run into the sink while there are any.

    The task ends when nothing is left to do and is started again by :meth:`wake`.
    """

    def __init__(
        self,
        run: RunRef,
        sink: Sink,
        log: AsyncEventLog | None,
        dead_letters: DeadLetterKeeper,
        stats: WriterStats,
        clock: Callable[[], float] = time.monotonic,
        gate: SinkGate | None = None,
    ) -> None:
        self.run = run
        self.feed = RunFeed()
        self.active_at = clock()
        self._sink = sink
        self._log = log
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._gate = (gate or SinkGate(clock=clock)).of(run, self._stopping)
        self._writer = BatchWriter(
            sink, run, dead_letters, stats, self._sleep, clock=clock, gate=self._gate
        )
        self._is_opened = False
        self._refused: PermanentSinkError | None = None
        self._write_began: float | None = None
        self._blocked_since: float | None = None
        self._ahead: list[Item] = []
        self._look_ahead_at = 0.0
        self._read_again_at = 0.0

    def wake(self, kind: str | None = None) -> None:
        """There may be something to do: an event of this kind has come, for one."""
        self.active_at = self._clock()
        if kind is not None:
            self._gate.hurry(kind)
        self._wake.set()
        if not self.is_running and not self._stopping.is_set():
            self._task = asyncio.create_task(self._work(), name=f"run {self.run.run}")
            self._task.add_done_callback(self._on_done)

    @property
    def is_running(self) -> bool:
        """The task has something to do or waits for something."""
        return self._task is not None and not self._task.done()

    def waiting_seconds(self, now: float) -> float:
        """How long the write in hand has been under way or waited for; 0 when there is none."""
        since = [at for at in (self._write_began, self._blocked_since) if at is not None]
        return now - min(since) if since else 0.0

    async def stop(self, timeout_seconds: float) -> None:
        """Let the write in hand finish, begin none, and end the task."""
        self._stopping.set()
        self._wake.set()
        if self._task is None:
            return
        await asyncio.wait((self._task,), timeout=timeout_seconds)
        await end_tasks([self._task])

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("run %s: the worker failed on it", self.run.run, exc_info=error)

    async def _work(self) -> None:
        try:
            await self._open()
            while not self._stopping.is_set():
                self._wake.clear()
                await self._read_missing()
                batch, left_out = await self._next_batch()
                if batch:
                    await self._or_reopen(self._write(batch, left_out))
                self._gate.give_back()
                letter = self.feed.next_retry()
                if letter is not None:
                    await self._or_reopen(self._retry(letter))
                elif not batch and not await self._wait():
                    return
        except StopWritingError:
            return
        finally:
            self._gate.rest(False)
            self._gate.give_back()

    async def _open(self) -> None:
        if self._is_opened:
            return
        self._write_began = self._clock()
        try:
            marks = await self._writer.open()
            self._gate.opened(is_new=not marks.applied)
            _acknowledge(self.feed.open(marks))
        except PermanentSinkError as error:
            self._refused = error
        finally:
            self._write_began = None
        self._is_opened = True

    async def _or_reopen(self, writing: Coroutine[object, object, None]) -> None:
        try:
            await writing
        except MarksMovedError as error:
            # A worker that was paused past a takeover, or our own write whose answer was lost.
            logger.warning("run %s: reading its marks again: %s", self.run.run, error)
            self._is_opened = False
            await self._open()

    async def _next_batch(self) -> tuple[list[Item], Collection[Id]]:
        """Wait for the tokens of a write, if there is one to make, and only then take the batch.

        Returns:
            The batch, and what of it is not to be written.
        """
        if self._gate.is_free or self._refused is not None:
            return self.feed.take(self._sink.limits), ()
        kinds = self.feed.upcoming(self._sink.limits.events) & self._sink.kinds
        if not kinds:
            return self.feed.take(self._sink.limits), ()
        if self._is_blocked():
            self._gate.rest(True)
            await self._look_ahead()
            await self._sleep(LOOK_AGAIN_SECONDS)
            return [], ()
        self._write_began = self._clock()
        try:
            self._gate.rank = rank_of(kinds)
            await self._gate.ready()
            if not self.feed.has_work():
                await self._read_missing()  # it was let go of meanwhile
        finally:
            self._write_began = None
        return self._take()

    def _is_blocked(self) -> bool:
        """All that is here waits for tokens of its kind."""
        if not self._gate.blocked():
            return False
        batch, _ = self._take()
        self.feed.put_back(batch)
        if not batch and self._blocked_since is None:
            self._blocked_since = self._clock()
        return not batch

    def _take(self) -> tuple[list[Item], Collection[Id]]:
        """The batch that may be written now, without what it need not write after a wait."""
        batch = self.feed.take(self._sink.limits)
        blocked = self._gate.blocked()
        if not blocked and not self._gate.was_limited:
            return batch, ()
        left_out = superseded(batch, self._ahead)
        go, stay = split_blocked(batch, left_out, blocked)
        self.feed.put_back(stay)
        return go, left_out

    async def _look_ahead(self) -> None:
        """Find later checkpoints in the log: they may take the place of what has to wait.

        Else a run that makes more of them than its limit lets through would fall behind for ever.
        """
        now = self._clock()
        if self._log is None or now < self._look_ahead_at:
            return
        self._look_ahead_at = now + LOOK_AHEAD_SECONDS
        self._ahead = []
        for head in self.feed.heads():
            if head.kind != "checkpoint":
                continue
            try:
                found = await self._log.read(head.source, head.number + 1, _ENDLESS, head.kind)
            except LogError as error:
                logger.warning("run %s: cannot read the event log: %s", self.run.run, error)
                return
            self._ahead += [Item(e.source, e.id, e.kind, e.raw, None, now) for e in found]

    async def _write(self, batch: list[Item], left_out: Collection[Id]) -> None:
        self._blocked_since = None
        self._gate.rest(False)
        self._write_began = self._clock()
        try:
            if self._refused is None:
                await self._writer.write(batch, self.feed.marks, left_out)
            else:
                # The run cannot be in this sink at all (deleted there, for one).
                for item in batch:
                    await self._writer.give_up(item, self._refused, self.feed.marks)
        except BaseException:
            _acknowledge(self.feed.put_back(batch))
            raise
        finally:
            self._write_began = None
        _acknowledge(self.feed.settle(batch))
        self.active_at = self._clock()

    async def _retry(self, letter: Item) -> None:
        if self._refused is not None:
            # Whoever asks for a retry has put the run right, we hope.
            self._refused, self._is_opened = None, False
            await self._open()
            if self.feed.next_retry() is not letter:
                return
        self._write_began = self._clock()
        try:
            if self._refused is None:
                await self._writer.retry(letter, self.feed.marks)
            else:
                await self._writer.give_up(letter, self._refused, self.feed.marks)
        finally:
            self._write_began = None
        _acknowledge(self.feed.settle_retry(letter))
        self.active_at = self._clock()

    async def _read_missing(self) -> None:
        now = self._clock()
        # One source that never ends must not keep another from being read.
        if self._log is None or (self.feed.has_work() and now < self._read_again_at):
            return
        self._read_again_at = now + LOOK_AGAIN_SECONDS
        backoff = Backoff(_LOG_RETRY)
        for source, first, last in self.feed.wanted(now):
            while True:
                try:
                    found = await self._log.read(source, first, last)
                    break
                except LogError as error:
                    logger.warning("run %s: cannot read the event log: %s", self.run.run, error)
                    self._gate.give_back()
                    await self._sleep(backoff.next_seconds())
            now = self._clock()
            for event in found:
                item = Item(event.source, event.id, event.kind, event.raw, None, now)
                self.feed.offer(item)

    async def _wait(self) -> bool:
        """Wait until there may be something to do; False when nothing is left."""
        if self.feed.is_quiet() and not self._wake.is_set():
            return False
        await wait_for_event(self._wake, LOOK_AGAIN_SECONDS)
        return True

    async def _sleep(self, seconds: float) -> None:
        """Wait between attempts, or give up the batch when asked to stop."""
        if await wait_for_event(self._stopping, seconds):
            raise StopWritingError


def _acknowledge(deliveries: Iterable[Delivery]) -> None:
    for delivery in deliveries:
        delivery.ack()
