"""The task of one run: takes what the feed has, reads what is missing from the log, writes it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable

from bus.errors import LogError, PermanentSinkError
from bus.eventlog.aio import AsyncEventLog
from bus.feed import Item, RunFeed
from bus.mqtt import Delivery
from bus.retry import Backoff, RetryPolicy
from bus.sinks import RunRef, Sink
from subscribers.worker.writer import BatchWriter, DeadLetterKeeper, WriterStats

__all__ = ["RunPump"]

logger = logging.getLogger(__name__)

# How often a run that waits for something looks again by itself; messages wake it at once. Also how
# often the log is asked for one source of a run while another has events here.
LOOK_AGAIN_SECONDS = 0.5
_LOG_RETRY = RetryPolicy(initial_seconds=0.5, cap_seconds=10.0)


class _StopWritingError(Exception):
    """The run is to be left as it is: the worker stops, or its shard has moved."""


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
    ) -> None:
        self.run = run
        self.feed = RunFeed()
        self.active_at = clock()
        self._sink = sink
        self._log = log
        self._clock = clock
        self._writer = BatchWriter(sink, run, dead_letters, stats, self._sleep, clock=clock)
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_opened = False
        self._refused: PermanentSinkError | None = None
        self._write_began: float | None = None
        self._read_again_at = 0.0

    def wake(self) -> None:
        """There may be something to do."""
        self.active_at = self._clock()
        self._wake.set()
        if not self.is_running and not self._stopping.is_set():
            self._task = asyncio.create_task(self._work(), name=f"run {self.run.run}")
            self._task.add_done_callback(self._on_done)

    @property
    def is_running(self) -> bool:
        """The task has something to do or waits for something."""
        return self._task is not None and not self._task.done()

    def waiting_seconds(self, now: float) -> float:
        """How long the write in hand has been under way; 0 when there is none."""
        return 0.0 if self._write_began is None else now - self._write_began

    async def stop(self, timeout_seconds: float) -> None:
        """Let the write in hand finish, begin none, and end the task."""
        self._stopping.set()
        self._wake.set()
        if self._task is None:
            return
        await asyncio.wait((self._task,), timeout=timeout_seconds)
        self._task.cancel()
        # Not awaited itself: it may have failed, which has been said, and we may be cancelled.
        await asyncio.wait((self._task,))

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("run %s: the worker failed on it", self.run.run, exc_info=error)

    async def _work(self) -> None:
        try:
            await self._open()
            while not self._stopping.is_set():
                self._wake.clear()
                await self._read_missing()
                batch = self.feed.take(self._sink.limits)
                if batch:
                    await self._write(batch)
                elif not await self._wait():
                    return
        except _StopWritingError:
            return

    async def _open(self) -> None:
        if self._is_opened:
            return
        self._write_began = self._clock()
        try:
            _acknowledge(self.feed.open(await self._writer.open()))
        except PermanentSinkError as error:
            self._refused = error
        finally:
            self._write_began = None
        self._is_opened = True

    async def _write(self, batch: list[Item]) -> None:
        self._write_began = self._clock()
        try:
            if self._refused is None:
                await self._writer.write(batch, self.feed.marks)
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
                    await self._sleep(backoff.next_seconds())
            now = self._clock()
            for event in found:
                item = Item(event.source, event.id, event.kind, event.raw, None, now)
                self.feed.offer(item)

    async def _wait(self) -> bool:
        """Wait until there may be something to do; False when nothing is left."""
        if self.feed.is_quiet() and not self._wake.is_set():
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), LOOK_AGAIN_SECONDS)
        return True

    async def _sleep(self, seconds: float) -> None:
        """Wait between attempts, or give up the batch when asked to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        if self._stopping.is_set():
            raise _StopWritingError


def _acknowledge(deliveries: Iterable[Delivery]) -> None:
    for delivery in deliveries:
        delivery.ack()
