"""Writing batches to a sink: retries, the search for a poisonous event, dead letters.

The sink's errors decide. ``RetryableSinkError``: the same batch again, without end. Permanent: the
batch is halved until the culprit stands alone, which becomes a dead letter. An error the sink did
not translate is tried a few times and then permanent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from tenacity import RetryCallState

from bus.errors import (
    EventError,
    LogError,
    MarksMovedError,
    PermanentSinkError,
    RetryableSinkError,
)
from bus.eventlog.records import DeadLetter
from bus.events import Event, decode
from bus.item import Id, Item
from bus.kinds import RunStarted
from bus.ratelimit import is_unlimited
from bus.retry import SINK_RETRY, RetryPolicy
from bus.sinks import Marks, RunRef, Sink
from subscribers.worker.gate import RunGate

__all__ = ["BatchWriter", "DeadLetterKeeper", "WriterStats"]

logger = logging.getLogger(__name__)

UNKNOWN_ERROR_ATTEMPTS = 5

T = TypeVar("T")


class DeadLetterKeeper(Protocol):
    """Where dead letters go. It must hold what it is told when a call returns."""

    async def keep(self, run: RunRef, item: Item, error: Exception, attempts: int) -> None:
        """Keep one event that the sink will never take.

        Raises:
            LogError: It cannot be kept now.
        """

    async def resolve(self, run: RunRef, item: Item, attempts: int) -> None:
        """Note that a dead letter was delivered after all; nothing if it is none.

        Raises:
            LogError: It cannot be noted now.
        """

    async def wanted(
        self, is_ours: Callable[[str], bool], is_here: Callable[[DeadLetter], bool]
    ) -> list[DeadLetter]:
        """The next dead letters to try again, of runs that are ours, but for those here already.

        Raises:
            LogError: They cannot be read now.
        """


@dataclass(slots=True)
class WriterStats:
    """Counters of a worker since its start, for heartbeats."""

    delivered: int = 0
    not_applicable: int = 0
    dead: int = 0
    superseded: int = 0
    retries: int = 0
    batches: int = 0
    last_error: str = ""


@dataclass(slots=True)
class BatchWriter:
    """Writes batches of one run; made for one run, used by one task.

    Attributes:
        sleep: Waits between attempts; raises to give up (the worker stops, the shard has moved).
        gate: Where each call of the sink waits for its turn; None for no such wait.
        retrying_since: When the call under way first failed (monotonic); None while it goes well.
    """

    sink: Sink
    run: RunRef
    dead_letters: DeadLetterKeeper
    stats: WriterStats
    sleep: Callable[[float], Awaitable[None]]
    policy: RetryPolicy = SINK_RETRY
    clock: Callable[[], float] = time.monotonic
    gate: RunGate | None = None
    retrying_since: float | None = field(default=None, init=False)
    _attempts: int = field(default=0, init=False)
    _elsewhere: set[str] = field(default_factory=set, init=False)
    _paid: set[str] = field(default_factory=set, init=False)
    """Kinds whose token is taken for the write under way."""

    async def open(self) -> Marks:
        """Open the run in the sink and read its marks.

        Raises:
            PermanentSinkError: It can never be opened.
        """
        return await self._call(lambda: self.sink.open_run(self.run), None)

    async def write(
        self, items: Sequence[Item], marks: Marks, left_out: Collection[Id] = ()
    ) -> None:
        """Write a batch or give up its parts; ``marks`` holds all of it afterwards.

        Args:
            items: In order per source.
            marks: Of the run so far.
            left_out: Events that later ones take the place of: marked, and not written. Where
                something of the batch is given up they are not even marked: it may have been that
                whose place they make way for.

        Raises:
            HeldBackError: An attempt failed, and a kind has no token for another. What ``marks``
                does not hold was not written.
        """
        self._paid.clear()
        pairs: list[tuple[Item, Event]] = []
        gone: list[Item] = []
        dead_before = self.stats.dead
        for item in items:
            if item.kind not in self.sink.kinds or item.source in self._elsewhere:
                self.stats.not_applicable += 1
                marks.add_applied(item.source, item.number)
                continue
            try:
                event = decode(item.raw)
            except EventError as error:
                await self.give_up(item, error, marks)
                continue
            if self._is_elsewhere(event):
                self.stats.not_applicable += 1
                marks.add_applied(item.source, item.number)
            elif (item.source, item.number) in left_out:
                gone.append(item)
            else:
                pairs.append((item, event))
        await self._write(pairs, marks, gone)
        if self.stats.dead != dead_before:
            await self._write_marks(marks)

    def _is_elsewhere(self, event: Event) -> bool:
        """The run was started for other sinks; that is the first event of each source.

        No mark is written for it, so that a worker that starts again begins there again.
        """
        chosen = event.data.sinks if isinstance(event.data, RunStarted) else None
        if chosen is not None and self.sink.name not in chosen:
            self._elsewhere.add(event.source)
        return event.source in self._elsewhere

    async def give_up(self, item: Item, error: Exception, marks: Marks, attempts: int = 1) -> None:
        """Make a dead letter of an event, and note that in the marks once it is kept."""

        async def keep() -> None:
            try:
                await self.dead_letters.keep(self.run, item, error, attempts)
            except LogError as failure:
                raise RetryableSinkError(f"cannot keep a dead letter: {failure}") from failure

        logger.warning(
            "%s: run %s: event %d of %s becomes a dead letter: %s",
            *(self.sink.name, self.run.run, item.number, item.source, error),
        )
        await self._insist(keep)
        marks.add_dead(item.source, item.number)
        self.stats.dead += 1

    async def retry(self, item: Item, marks: Marks) -> None:
        """Try a dead letter again: written, it is no longer dead; else it is given up once more.

        Raises:
            HeldBackError: Its kind has no token; nothing was done.
        """
        self._paid.clear()
        attempts = 0
        if marks.is_dead(item.source, item.number):  # else an earlier try got through
            try:
                await self._write_dead(item, marks)
            except (EventError, PermanentSinkError) as error:
                await self.give_up(item, error, marks, self._attempts)
                return
            attempts = self._attempts

        async def resolve() -> None:
            try:
                await self.dead_letters.resolve(self.run, item, attempts)
            except LogError as failure:
                raise RetryableSinkError(f"cannot note a delivery: {failure}") from failure

        await self._insist(resolve)

    async def _write_dead(self, item: Item, marks: Marks) -> None:
        """Write one event that is dead, and marks that no longer call it so, in one call."""
        self._attempts = 1
        events = [decode(item.raw)] if item.kind in self.sink.kinds else []
        after = marks.copy()
        after.revive(item.source, item.number)
        await self._call(lambda: self.sink.write(self.run, events, after), _limited(events))
        marks.revive(item.source, item.number)
        self.stats.delivered += 1
        self.stats.batches += 1

    async def _write_marks(self, marks: Marks) -> None:
        try:
            await self._call(lambda: self.sink.write(self.run, [], marks), ())
        except PermanentSinkError as error:
            # The letters are kept; a worker that starts again makes them once more.
            logger.warning("%s: run %s: marks: %s", self.sink.name, self.run.run, error)

    async def _write(
        self, pairs: Sequence[tuple[Item, Event]], marks: Marks, gone: Sequence[Item] = ()
    ) -> None:
        after = marks.copy()
        _note(pairs, gone, after)
        events = [event for _, event in pairs]
        if events:
            try:
                await self._call(lambda: self.sink.write(self.run, events, after), _limited(events))
            except PermanentSinkError as error:
                await self._divide(pairs, marks, error)
                return
            self.stats.delivered += len(events)
            self.stats.batches += 1
        # Where there are none: the call that writes what takes their place says so.
        _note(pairs, gone, marks)
        self.stats.superseded += len(gone)

    async def _divide(
        self, pairs: Sequence[tuple[Item, Event]], marks: Marks, error: PermanentSinkError
    ) -> None:
        """Write what was refused in two halves; one that stands alone is given up."""
        if len(pairs) == 1:
            await self.give_up(pairs[0][0], error, marks, self._attempts)
            return
        middle = len(pairs) // 2
        await self._write(pairs[:middle], marks)
        await self._write(pairs[middle:], marks)

    async def _call(self, call: Callable[[], Awaitable[T]], kinds: Collection[str] | None) -> T:
        """Call the sink in turn, until it works or is refused for good.

        Args:
            call: Which call.
            kinds: Of the events it writes, as far as they are limited; None when it opens the run.
        """
        gate = self.gate
        if gate is None:
            return await self._insist(call)

        async def enter() -> None:
            await gate.enter(None if kinds is None else set(kinds) - self._paid)
            self._paid.update(kinds or ())

        async def watched() -> T:
            try:
                with gate.watch():
                    return await call()
            except RetryableSinkError:
                self._paid.clear()
                raise

        return await self._insist(watched, enter)

    async def _insist(
        self,
        call: Callable[[], Awaitable[T]],
        enter: Callable[[], Awaitable[None]] | None = None,
    ) -> T:
        """Call until it works or is refused for good; before each attempt, ``enter``."""
        unknown = 0

        async def attempt() -> T:
            nonlocal unknown
            if enter is not None:
                await enter()
            try:
                return await call()
            except (RetryableSinkError, PermanentSinkError, MarksMovedError):
                raise
            except Exception as error:  # a plain SinkError too: the sink itself does not know
                unknown += 1
                text = f"{type(error).__name__}: {error}"
                if unknown >= UNKNOWN_ERROR_ATTEMPTS:
                    raise PermanentSinkError(text) from error
                raise RetryableSinkError(text) from error

        retrying = self.policy.retrying(before_sleep=self._on_failure, sleep=self.sleep)
        try:
            return await retrying(attempt)
        finally:
            self._attempts = int(retrying.statistics.get("attempt_number", 1))
            self.retrying_since = None

    def _on_failure(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self.stats.retries += 1
        self.stats.last_error = str(error)
        if self.retrying_since is None:
            self.retrying_since = self.clock()
            logger.warning("%s: run %s: will retry: %s", self.sink.name, self.run.run, error)


def _limited(events: Iterable[Event]) -> set[str]:
    """The kinds whose tokens a write of these events needs."""
    return {event.kind for event in events if not is_unlimited(event.data)}


def _note(pairs: Sequence[tuple[Item, Event]], gone: Sequence[Item], marks: Marks) -> None:
    """Note what is written and what is left out."""
    for item, _ in pairs:
        marks.add_applied(item.source, item.number)
    for item in gone:
        marks.add_superseded(item.source, item.number)
