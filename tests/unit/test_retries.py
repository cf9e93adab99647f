"""Dead letters that are tried again: beside the order of their source, once in effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from bus.errors import BrokerError, LogError, MarksMovedError, PermanentSinkError
from bus.eventlog import DeadLetter
from bus.eventlog.aio import AsyncEventLog
from bus.eventlog.records import OPEN, RESOLVED, RETRIED
from bus.feed import Item, RunFeed
from bus.idranges import IdRanges
from bus.mqtt import Delivery
from bus.sinks import BatchLimits, Marks, RunRef
from bus.topics import Topics
from subscribers.worker.lag import lag_seconds
from subscribers.worker.letters import LETTERS_PER_RUN, DeadLetters
from subscribers.worker.pump import RunPump
from subscribers.worker.retries import AGAIN_SECONDS, LOOK_SECONDS, Retries
from subscribers.worker.writer import WriterStats
from tests.fixtures.processes import until
from tests.fixtures.roadparts import RUN, SOURCE, FakeLink, event_bytes, item, source_of
from tests.fixtures.roadsinks import MemoryLetters, MemoryLog, MemorySink

RUN_REF = RunRef("digits", RUN, "mlp")


def marks(applied: str = "1-5", dead: str = "3") -> Marks:
    return Marks({SOURCE: IdRanges.parse(applied)}, {SOURCE: IdRanges.parse(dead)})


def letter(number: int, delivery: Delivery | None = None) -> Item:
    return replace(item(number, delivery), is_retry=True)


def test_an_id_that_is_revived_is_applied_and_no_longer_dead() -> None:
    held = marks(dead="3-4")
    held.revive(SOURCE, 3)
    assert (str(held.applied[SOURCE]), str(held.dead[SOURCE])) == ("1-5", "4")
    held.revive(SOURCE, 4)
    assert held.dead == {}
    held.revive(SOURCE, 7)
    assert (held.is_applied(SOURCE, 7), held.is_dead(SOURCE, 7)) == (True, False)


def test_only_a_retry_of_a_dead_id_gets_past_the_marks() -> None:
    feed, link = RunFeed(marks()), FakeLink()
    plain, other = link.deliver(), link.deliver()
    assert feed.offer(item(3, plain)) is plain
    assert feed.offer(letter(2, other)) is other, "it was written"
    assert feed.next_retry() is None
    assert feed.offer(dead := letter(3, link.deliver())) is None
    assert feed.next_retry() is dead
    assert not feed.is_quiet()
    assert feed.take(BatchLimits()) == [], "it is none of the events in order"
    assert feed.settle_retry(dead) == [dead.delivery]
    assert feed.is_quiet()


def test_a_retry_that_comes_twice_is_tried_once() -> None:
    feed, link, later = RunFeed(marks()), FakeLink(), FakeLink()
    first, second = letter(3, link.deliver()), letter(3, link.deliver())
    feed.offer(first)
    assert feed.offer(second) is second.delivery
    link.is_lost = True
    again = letter(3, later.deliver())
    assert feed.offer(again) is None, "the first can no longer be acknowledged"
    assert feed.settle_retry(first) == [again.delivery]


def test_a_retry_that_came_before_the_marks_waits_for_them() -> None:
    feed = RunFeed()
    feed.offer(dead := letter(3))
    feed.open(marks())
    assert feed.next_retry() is dead


def test_a_retry_of_what_the_sink_has_forgotten_is_an_event_as_any_other() -> None:
    feed = RunFeed(marks())
    feed.offer(dead := letter(3))
    feed.open(Marks({SOURCE: IdRanges([(1, 2)])}))
    assert feed.next_retry() is None
    assert feed.take(BatchLimits()) == [dead]


class Bench:
    """A pump whose sink has given up event 3 of 5."""

    def __init__(self, held: Marks | None = None) -> None:
        self.sink = MemorySink()
        self.sink.marks[RUN] = held or marks()
        self.letters = MemoryLetters()
        self.log = MemoryLog()
        log = cast("AsyncEventLog", self.log)
        self.stats = WriterStats()
        self.pump = RunPump(RUN_REF, self.sink, log, self.letters, self.stats)

    async def offer(self, *items: Item) -> None:
        for one in items:
            self.pump.feed.offer(one)
        self.pump.wake()
        await until(lambda: not self.pump.is_running)


async def test_a_retry_is_written_with_marks_that_no_longer_call_it_dead() -> None:
    bench, link = Bench(), FakeLink()
    await bench.offer(letter(3, link.deliver()))
    assert bench.sink.ids(SOURCE) == [3]
    assert bench.sink.marks[RUN].dead == {}
    assert str(bench.sink.marks[RUN].applied[SOURCE]) == "1-5"
    assert bench.letters.resolved == [(3, 1)]
    assert len(link.acked) == 1
    await bench.offer(letter(3, link.deliver()))
    assert bench.sink.ids(SOURCE) == [3], "the sink would say: written twice"


async def test_a_retry_that_is_refused_again_stays_dead_and_is_kept_again() -> None:
    bench, link = Bench(), FakeLink()
    bench.sink.errors = [PermanentSinkError("unknown")]
    bench.pump.feed.open(marks())
    bench.pump._is_opened = True
    await bench.offer(letter(3, link.deliver()))
    assert (bench.sink.ids(SOURCE), bench.letters.kept) == ([], [3])
    assert str(bench.pump.feed.marks.dead[SOURCE]) == "3"
    assert len(link.acked) == 1


async def test_a_retry_that_was_written_before_its_worker_died_is_only_noted() -> None:
    bench = Bench(marks(dead=""))
    await bench.offer(letter(3))
    assert bench.sink.ids(SOURCE) == []
    assert bench.letters.resolved == [(3, 0)]


async def test_a_retry_that_cannot_be_decoded_is_kept_again() -> None:
    bench = Bench()
    bad = letter(3)
    bad.raw = event_bytes(3, data={"set": 5})
    await bench.offer(bad)
    assert bench.letters.kept == [3]


async def test_marks_that_moved_are_read_again_and_the_retry_goes_on() -> None:
    bench = Bench()
    bench.pump.feed.open(marks())
    bench.pump._is_opened = True
    bench.sink.errors = [MarksMovedError("others")]
    await bench.offer(letter(3))
    assert bench.sink.ids(SOURCE) == [3]
    assert bench.sink.opened == [RUN]


async def test_a_retry_opens_a_run_again_that_was_refused_as_a_whole() -> None:
    bench = Bench(Marks())
    bench.log.hold(SOURCE, 1, 2)
    bench.pump.feed.stored(SOURCE, IdRanges([(1, 2)]))
    bench.sink.errors = [PermanentSinkError("deleted there")]
    await bench.offer(item(1), item(2))
    assert bench.letters.kept == [1, 2]
    # Restored. The sink knows nothing of the dead letters: all comes from the log, in order.
    await bench.offer(letter(2))
    assert bench.sink.ids(SOURCE) == [1, 2]


def dead_letter(number: int, run: str = RUN, **changes: object) -> DeadLetter:
    raw = event_bytes(number, run=run)
    made = DeadLetter(
        *("memory", source_of(run), number, run, "digits", "permanent", "no", 1, 5.0, raw),
        state=RETRIED,
        key=number,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # as the caller says


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Looking:
    """Retries with a clock of their own."""

    def __init__(self) -> None:
        self.clock, self.log, self.letters = Clock(), MemoryLog(), MemoryLetters()
        log = cast("AsyncEventLog", self.log)
        self.retries = Retries(log, self.letters, self.clock)

    async def look(self, is_here: Callable[[DeadLetter], bool] = lambda _: False) -> list[int]:
        found = await self.retries.look(lambda run: run == RUN, is_here)
        return [retry.item.number for retry in found]


async def test_retries_are_looked_for_at_first_every_15_s_and_soon_after_a_nudge() -> None:
    looking = Looking()
    looking.letters.retried = [dead_letter(1), dead_letter(1, "other")]
    assert await looking.look() == [1]
    looking.letters.retried = []
    looking.clock.now += AGAIN_SECONDS
    assert await looking.look() == [], "the letter was dealt with"
    looking.letters.retried = [dead_letter(2)]
    looking.clock.now += LOOK_SECONDS - 1
    assert await looking.look() == []
    looking.retries.nudge()
    assert await looking.look() == [2]
    looking.retries.nudge()
    assert await looking.look() == [], "a second must pass"
    looking.clock.now += LOOK_SECONDS
    assert await looking.look(lambda _: True) == [], "it is being tried"


async def test_a_retry_carries_what_the_log_holds_of_its_source() -> None:
    looking = Looking()
    looking.log.hold(SOURCE, 1, 4)
    looking.letters.retried = [dead_letter(1), dead_letter(2, raw=b"no event")]
    (retry,) = await looking.retries.look(lambda _: True, lambda _: False)
    assert retry.state is not None
    assert (str(retry.state.stored), retry.run) == ("1-4", RUN_REF)
    assert (retry.item.is_retry, retry.item.delivery, retry.item.kind) == (True, None, "tags")


class LetterLog:
    """An event log's letters; may be away."""

    def __init__(self, letters: list[DeadLetter]) -> None:
        self.letters = letters
        self.told: list[DeadLetter] = []
        self.is_away = False

    async def retried_letters(self, group: str) -> list[DeadLetter]:
        return [replace(one, raw=b"") for one in self.letters if one.group == group]

    async def dead_letters(self, keys: list[int]) -> list[DeadLetter]:
        return [one for one in self.letters if one.key in keys]

    async def add_dead_letter(self, one: DeadLetter) -> bool:
        if self.is_away:
            raise LogError("away", is_retryable=True)
        self.told.append(one)
        return True


def keeper(log: LetterLog | None) -> DeadLetters:
    held = cast("AsyncEventLog", log) if log else None
    return DeadLetters("memory", Topics(), held, lambda: 1.0)


async def test_the_oldest_few_letters_of_each_run_are_tried_first() -> None:
    letters = [dead_letter(number) for number in range(1, 100)]
    letters.append(dead_letter(200, "r2"))
    letters.append(dead_letter(300, "not-ours"))
    made = keeper(LetterLog(letters))
    found = await made.wanted(lambda run: run != "not-ours", lambda one: one.id == 1)
    ids = [one.id for one in found]
    assert ids == [*range(2, LETTERS_PER_RUN + 1), 200], "one is here, and holds its place"
    assert found[0].raw == event_bytes(2)


async def test_what_becomes_of_a_letter_is_later_than_the_letter_whatever_the_clocks_say() -> None:
    log = LetterLog([dead_letter(1, time=5000.0)])
    made = keeper(log)
    await made.wanted(lambda _: True, lambda _: False)
    await made.keep(RUN_REF, letter(1), PermanentSinkError("still"), 2)
    await made.resolve(RUN_REF, letter(2), 1)
    assert [(one.state, one.time > 5000.0) for one in log.told] == [(OPEN, True), (RESOLVED, False)]
    assert (log.told[0].reason, log.told[0].error, log.told[0].attempts) == (
        "permanent",
        "still",
        2,
    )


async def test_without_a_log_the_word_must_get_onto_the_bus() -> None:
    made = keeper(None)
    assert await made.wanted(lambda _: True, lambda _: False) == []
    with pytest.raises(LogError, match="connection to the broker is lost") as caught:
        await made.resolve(RUN_REF, letter(1), 1)
    assert isinstance(caught.value.__cause__, BrokerError)


def test_the_lag_is_the_age_of_the_oldest_event_that_waits() -> None:
    # Events of the test parts are of 2026-01-01T00:00:00Z.
    event_time = 1767225600.0
    assert lag_seconds([RunFeed()], 0.0, event_time) == 0.0
    feed, link = RunFeed(), FakeLink()
    feed.offer(item(1, link.deliver(), since=100.0))
    assert lag_seconds([feed, RunFeed()], 101.0, event_time + 7) == 7.0
    assert lag_seconds([feed], 101.0, event_time - 7) == 0.0, "a clock that is ahead"
    feed.stored(SOURCE, IdRanges([(1, 1)]))
    feed.let_go(105.0, 5.0)
    assert lag_seconds([feed], 160.0, event_time) == 60.0, "left to the log"
    feed.marks.add_applied(SOURCE, 1)
    assert lag_seconds([feed], 160.0, event_time) == 0.0
