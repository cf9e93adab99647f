"""The task of one run: takes what the feed has, reads what is missing from the log, writes it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Iterable

from bus.errors import MarksMovedError, PermanentSinkError
from bus.eventlog.aio import AsyncEventLog
from bus.feed import RunFeed
from bus.item import Id, Item
from bus.mqtt import Delivery
from bus.sinks import RunRef, Sink
from bus.superseded import superseded
from bus.turns import rank_of
from bus.waiting import end_tasks, wait_for_event
from subscribers.worker.gate import HeldBackError, SinkGate, StopWritingError
from subscribers.worker.reading import LogReader
from subscribers.worker.writer import BatchWriter, DeadLetterKeeper, WriterStats

__all__ = ["RunPump"]

logger = logging.getLogger(__name__)

# How often a run that waits for something looks again by itself; messages wake it at once. Also how
# often the log is asked for one source of a run while another has events here.
LOOK_AGAIN_SECONDS = 0.5
# The longest wait for a token of a kind without a look around.
LONGEST_WAIT_SECONDS = 60.0


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
        self._clock = clock
        self._reader = LogReader(run.run, log, self.feed, clock, LOOK_AGAIN_SECONDS)
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

    @property
    def has_marks(self) -> bool:
        """What the sink has applied of the run is known."""
        return self._is_opened

    def waiting_seconds(self, now: float) -> float:
        """How long the write in hand has been under way or waited for; 0 when there is none."""
        return 0.0 if self._write_began is None else now - self._write_began

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
                self._gate.park(bool(self.feed.parked_kinds()))
                if batch:
                    await self._or_reopen(self._write(batch, left_out))
                self._gate.give_back()
                letter = self.feed.next_retry(self._blocked())
                if letter is not None:
                    await self._or_reopen(self._retry(letter))
                elif not batch and not await self._wait():
                    return
        except StopWritingError:
            return
        finally:
            self._gate.park(False)
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
        except HeldBackError:
            # It is parked now: an attempt failed, and the next needs a token of its kind.
            logger.debug("run %s: waits for a token after a failure", self.run.run)

    async def _next_batch(self) -> tuple[list[Item], Collection[Id]]:
        """Wait for the tokens of a write, if there is one to make, and only then take the batch.

        Returns:
            The batch, and what of it is not to be written.
        """
        limits = self._sink.limits
        if self._gate.is_free or self._refused is not None:
            await self._reader.parked(())
            return self.feed.take(limits), ()
        blocked, left_out = await self._choose(was_limited=False)
        ready = self.feed.peek(limits, blocked, left_out)
        kinds = {item.kind for item in ready if (item.source, item.number) not in left_out}
        if kinds.isdisjoint(self._sink.kinds):
            return self.feed.take(limits, blocked, left_out), left_out
        self._gate.park(bool(self.feed.parked_kinds()))
        self._write_began = self._clock()
        try:
            self._gate.rank = rank_of(kinds & self._sink.kinds)
            await self._gate.ready()
            if not self.feed.has_work(self._blocked()):
                await self._read_missing()  # it was let go of meanwhile
            blocked, left_out = await self._choose(self._gate.was_limited)
        finally:
            self._write_began = None
        return self.feed.take(limits, blocked, left_out), left_out

    def _blocked(self) -> frozenset[str]:
        """The kinds that have to wait. What the sink has no use for needs no token."""
        return frozenset() if self._refused is not None else self._gate.blocked() & self._sink.kinds

    async def _choose(self, was_limited: bool) -> tuple[frozenset[str], frozenset[Id]]:
        """Say what has to wait now, and which checkpoints are superseded.

        That is decided when a token comes, over all that is known of by then; and when a final one
        or the end of the run is here, so that the run need not wait with what will not be written.
        Where every checkpoint could be written without a wait, none is superseded.

        Args:
            was_limited: Whatever is written now has waited for tokens.

        Returns:
            The kinds without a token, and the events that are not to be written.
        """
        if not was_limited and not self._gate.has_kind_limits:
            return frozenset(), frozenset()
        await self._reader.parked(self._blocked())
        blocked = self._blocked()
        ready = self.feed.peek(self._sink.limits, blocked)
        going = [item for item in ready if item.kind == "checkpoint"]
        firsts = self.feed.first_parked("checkpoint")
        if not firsts and not was_limited and self._gate.has_tokens("checkpoint", len(going)):
            return blocked, frozenset()
        is_stuck = "checkpoint" in blocked and not going and not self.feed.is_ending()
        for item in going:
            firsts.setdefault(item.source, item.number)
        if is_stuck or not firsts:
            return blocked, frozenset()
        await self._reader.parked(blocked - {"checkpoint"})
        await self._reader.look_ahead(firsts)
        blocked = self._blocked()
        ready = self.feed.peek(self._sink.limits, blocked)
        return blocked, superseded([*self.feed.parked(), *ready], self._reader.ahead())

    async def _write(self, batch: list[Item], left_out: Collection[Id]) -> None:
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
        is_done = self.feed.marks.is_applied
        _acknowledge(self.feed.settle(i for i in batch if is_done(i.source, i.number)))
        _acknowledge(self.feed.put_back(i for i in batch if not is_done(i.source, i.number)))
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
        await self._reader.missing(self.feed.has_work(self._blocked()), self._sleep_without_turn)

    async def _wait(self) -> bool:
        """Wait until there may be something to do; False when nothing is left."""
        if self.feed.is_quiet() and not self._wake.is_set():
            return False
        seconds = LOOK_AGAIN_SECONDS
        if self.feed.is_held():
            wait = self._gate.kind_wait_seconds(self.feed.parked_kinds())
            seconds = min(wait, LONGEST_WAIT_SECONDS) if wait > 0 else seconds
        await wait_for_event(self._wake, seconds)
        return True

    async def _sleep_without_turn(self, seconds: float) -> None:
        self._gate.give_back()
        await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        """Wait between attempts, or give up the batch when asked to stop."""
        if await wait_for_event(self._stopping, seconds):
            raise StopWritingError


def _acknowledge(deliveries: Iterable[Delivery]) -> None:
    for delivery in deliveries:
        delivery.ack()
