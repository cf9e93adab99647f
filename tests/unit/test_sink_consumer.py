"""What a sink worker does with its shards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import cast

import orjson
import pytest

from bus.errors import LogError
from bus.eventlog import DeadLetter
from bus.eventlog.aio import AsyncEventLog
from bus.idranges import IdRanges
from bus.sinks import Marks
from bus.stored import encode_stored
from bus.topics import Topics, shard_of, slot_of
from subscribers.worker.consumer import FORGET_SECONDS, LET_GO_SECONDS, LOOK_SECONDS, SinkConsumer
from tests.fixtures.processes import until
from tests.fixtures.roadparts import RUN, SOURCE, FakeLink, event_bytes, source_of
from tests.fixtures.roadsinks import MemoryLetters, MemoryLog, MemorySink

TOPICS = Topics()
SHARDS = 4
ALL = frozenset(range(SHARDS))


def shard(run: str = RUN) -> int:
    return shard_of(slot_of(run), SHARDS)


class Bench:
    """A consumer of all shards, with a clock of its own."""

    def __init__(self, has_log: bool = True) -> None:
        self.now = 1000.0
        self.sink = MemorySink()
        self.log = MemoryLog(lambda: self.now)
        self.link = FakeLink()
        self.letters = MemoryLetters()
        self.consumer = SinkConsumer(
            self.sink,
            TOPICS,
            SHARDS,
            cast("AsyncEventLog", self.log) if has_log else None,
            self.letters,
            clock=lambda: self.now,
        )

    def deliver(self, *numbers: int, run: str = RUN, rank: int = 0) -> None:
        for number in numbers:
            delivery = self.link.deliver_event(event_bytes(number, run=run, rank=rank))
            self.consumer.on_delivery(shard(run), delivery)

    def own(self, *shards: int) -> None:
        for one in shards or ALL:
            self.consumer.on_shard(one)

    def notice(self, topic: str, payload: bytes) -> None:
        self.consumer.on_notice(self.link.deliver(topic, payload))

    async def in_time(self, condition: Callable[[], bool]) -> None:
        """Wait for something that comes with time, which passes meanwhile."""

        def passed() -> bool:
            self.now += 0.5
            return condition()

        await until(passed)

    def pump(self, run: str = RUN) -> bool:
        return ("digits", run) in self.consumer._pumps


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A consumer that is being tended."""
    made = Bench()
    tending = asyncio.create_task(made.consumer.tend())
    yield made
    tending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await tending
    made.sink.may_write.set()
    await made.consumer.release(ALL)


async def test_runs_are_written_side_by_side(bench: Bench) -> None:
    bench.deliver(1, 2)
    bench.deliver(1, run="r2")
    await until(lambda: bench.sink.ids(SOURCE) == [1, 2])
    await until(lambda: bench.sink.ids(source_of("r2"), "r2") == [1])
    assert len(bench.link.acked) == 3


async def test_a_run_that_waits_does_not_hold_up_another(bench: Bench) -> None:
    bench.sink.refused_runs = {RUN}
    bench.deliver(1)
    await until(lambda: bench.consumer.report()["retries"] > 0)
    bench.deliver(1, run="r2")
    await until(lambda: bench.sink.ids(source_of("r2"), "r2") == [1])
    assert bench.sink.ids(SOURCE) == []


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (TOPICS.event("digits", RUN, "tags"), b"\xff\xfe"),
        (TOPICS.event("digits", RUN, "tags"), b"{}"),
        (TOPICS.event("digits", RUN, "params"), event_bytes(1)),
        (TOPICS.event("other", RUN, "tags"), event_bytes(1)),
        (TOPICS.event("digits", "r2", "tags"), event_bytes(1)),
        (TOPICS.event("digits", RUN, "tags").replace("events/", "events/zz"), event_bytes(1)),
        ("trainbus/v1/nonsense", event_bytes(1)),
    ],
)
async def test_what_is_no_event_of_its_topic_is_acknowledged_and_counted(
    bench: Bench, topic: str, payload: bytes
) -> None:
    bench.consumer.on_delivery(0, bench.link.deliver(topic, payload))
    assert len(bench.link.acked) == 1
    assert bench.consumer.report()["undecodable"] == 1
    assert not bench.consumer._pumps


async def test_a_run_that_waits_long_leaves_its_messages_to_the_log(bench: Bench) -> None:
    bench.sink.may_write.clear()
    bench.log.hold(SOURCE, 1, 2)
    bench.deliver(1, 2)
    await until(lambda: bool(bench.sink.writing))
    stored = encode_stored({SOURCE: IdRanges([(1, 2)])})
    bench.notice(TOPICS.stored("digits", RUN), stored)
    await asyncio.sleep(0.15)
    assert bench.link.acked == []
    bench.now += LET_GO_SECONDS + 1
    await until(lambda: len(bench.link.acked) == 2)
    bench.sink.may_write.set()
    await until(lambda: bench.sink.ids(SOURCE) == [1, 2])


@pytest.mark.parametrize(
    "topic",
    [
        TOPICS.stored("digits", "r2"),
        TOPICS.stored("other", RUN),
        "trainbus/v1/stored/x",
        "trainbus/v1/stored/_/_",
    ],
)
async def test_an_answer_on_a_topic_that_is_not_the_runs_is_not_believed(
    bench: Bench, topic: str
) -> None:
    bench.sink.may_write.clear()
    bench.deliver(1)
    bench.deliver(1, run="r2")
    await until(lambda: len(bench.sink.writing) == 2)
    bench.notice(topic, encode_stored({SOURCE: IdRanges([(1, 1)])}))
    bench.notice(topic, b"\xff")
    bench.now += LET_GO_SECONDS + 1
    await asyncio.sleep(0.25)
    assert bench.link.acked == []


async def test_what_the_log_has_and_the_sink_has_not_is_caught_up_with(bench: Bench) -> None:
    bench.log.hold(SOURCE, 1, 3)
    bench.log.hold(source_of("r2"), 1, 2)
    bench.own()
    await until(lambda: bench.log.reads == [] and bench.pump())
    await bench.in_time(lambda: bench.sink.ids(SOURCE) == [1, 2, 3])
    await until(lambda: bench.sink.ids(source_of("r2"), "r2") == [1, 2])


async def test_only_runs_of_its_own_shards_are_caught_up_with(bench: Bench) -> None:
    bench.log.hold(SOURCE, 1)
    bench.own(*(ALL - {shard()}))
    await asyncio.sleep(0.05)
    assert not bench.pump()


async def test_a_log_that_is_away_is_looked_into_again(bench: Bench) -> None:
    bench.log.hold(SOURCE, 1)
    bench.log.errors = [LogError("away", is_retryable=True)]
    bench.own()
    await until(lambda: not bench.log.errors)
    bench.now += LOOK_SECONDS + 1
    await until(lambda: bench.sink.opened == [RUN])
    await bench.in_time(lambda: bench.sink.ids(SOURCE) == [1])


async def test_a_shard_that_comes_back_is_looked_at_as_if_it_were_new(bench: Bench) -> None:
    # Another worker may have let go of messages in between, and died.
    bench.log.hold(SOURCE, 1)
    bench.own()
    await until(bench.pump)
    await bench.consumer.release(frozenset({shard()}))
    assert not bench.pump()
    bench.own(shard())
    await until(bench.pump)
    await bench.in_time(lambda: bench.sink.ids(SOURCE) == [1])


async def test_a_released_shard_is_finished_and_forgotten(bench: Bench) -> None:
    bench.own()
    bench.sink.may_write.clear()
    bench.deliver(1)
    await until(lambda: bool(bench.sink.writing))
    releasing = asyncio.create_task(bench.consumer.release(ALL))
    await asyncio.sleep(0)
    bench.sink.may_write.set()
    await releasing
    assert bench.sink.ids(SOURCE) == [1]
    assert len(bench.link.acked) == 1
    assert bench.sink.closed == [RUN]
    assert bench.consumer.idle(bench.now) == []


async def test_a_shard_is_idle_when_none_of_its_runs_has_anything_to_do(bench: Bench) -> None:
    bench.own()
    assert bench.consumer.idle(bench.now) == sorted(ALL)
    bench.sink.may_write.clear()
    bench.deliver(1)
    await until(lambda: bool(bench.sink.writing))
    assert bench.consumer.idle(bench.now) == sorted(ALL - {shard()})


async def test_a_run_with_nothing_to_do_is_forgotten_after_a_while(bench: Bench) -> None:
    bench.deliver(1)
    await until(lambda: bench.sink.ids(SOURCE) == [1])
    await asyncio.sleep(0.15)
    assert bench.pump()
    bench.now += FORGET_SECONDS + 1
    await until(lambda: not bench.pump())
    assert bench.sink.closed == [RUN]
    bench.deliver(1, 2)
    await until(lambda: bench.sink.ids(SOURCE) == [1, 2])


async def test_a_run_that_failed_by_an_error_of_ours_is_taken_up_again_not_forgotten(
    bench: Bench,
) -> None:
    bench.sink.kinds = cast("frozenset[str]", None)
    bench.deliver(1)
    await until(lambda: bench.consumer._pumps[("digits", RUN)].feed.held() == 1)
    await until(lambda: not bench.consumer._pumps[("digits", RUN)].is_running)
    bench.sink.kinds = MemorySink.kinds
    bench.now += FORGET_SECONDS + 1
    await until(lambda: bench.sink.ids(SOURCE) == [1])
    assert len(bench.link.acked) == 1


async def test_without_a_log_a_gap_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(has_log=False)
    tending = asyncio.create_task(bench.consumer.tend())
    bench.deliver(3)
    await until(lambda: "missing events 1 to 2" in caplog.text)
    await asyncio.sleep(0.25)
    assert caplog.text.count("missing events") == 1
    tending.cancel()
    await asyncio.gather(tending, return_exceptions=True)
    await bench.consumer.release(ALL)


async def test_without_a_log_what_the_sink_has_is_no_gap_however_late_it_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(has_log=False)
    bench.sink.marks[RUN] = Marks({SOURCE: IdRanges([(1, 2)])})
    bench.sink.refused_runs = {RUN}
    tending = asyncio.create_task(bench.consumer.tend())
    bench.deliver(3, 5, 8)
    await until(lambda: len(bench.sink.opened) > 1)
    bench.sink.refused_runs = set()
    await until(lambda: "missing events 6 to 7" in caplog.text)
    assert "missing events 4 to 4" in caplog.text
    assert caplog.text.count("missing events") == 2
    tending.cancel()
    await asyncio.gather(tending, return_exceptions=True)
    await bench.consumer.release(ALL)


async def test_the_report_is_what_a_heartbeat_can_carry(bench: Bench) -> None:
    bench.log.hold(SOURCE, 1, 5)
    bench.sink.may_write.clear()
    bench.own()
    bench.deliver(1)
    await until(lambda: bool(bench.sink.writing))
    report = bench.consumer.report()
    assert orjson.loads(orjson.dumps(report)) == report
    assert report["runs"] == 1
    assert report["held"] == 1


async def test_a_replay_makes_the_worker_look_for_dead_letters_to_retry(bench: Bench) -> None:
    bench.own()
    bench.sink.marks[RUN] = Marks({SOURCE: IdRanges([(1, 3)])}, {SOURCE: IdRanges([(2, 2)])})
    await until(lambda: not bench.consumer._look_now.is_set())
    bench.now += 2.0
    letter = DeadLetter("memory", SOURCE, 2, RUN, "digits", "", "", 1, 1.0, event_bytes(2))
    bench.letters.retried = [replace(letter, key=1)]
    replay = bench.link.deliver(TOPICS.replay("memory", "digits", RUN, "tags"), event_bytes(2))
    bench.consumer.on_delivery(shard(), replay)
    await until(lambda: bench.sink.ids(SOURCE) == [2])
    assert bench.letters.resolved == [(2, 1)]
    assert bench.link.acked == [replay]
    assert not bench.sink.marks[RUN].dead


async def test_a_replay_alone_does_not_write_what_is_dead(bench: Bench) -> None:
    bench.own()
    bench.sink.marks[RUN] = Marks({SOURCE: IdRanges([(1, 3)])}, {SOURCE: IdRanges([(2, 2)])})
    replay = bench.link.deliver(TOPICS.replay("memory", "digits", RUN, "tags"), event_bytes(2))
    bench.consumer.on_delivery(shard(), replay)
    await until(lambda: bench.link.acked == [replay])
    assert bench.sink.ids(SOURCE) == []
