"""The task of one run: from the feed and the event log into the sink."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from bus.errors import LogError, PermanentSinkError, RetryableSinkError
from bus.eventlog.aio import AsyncEventLog
from bus.idranges import IdRanges
from bus.sinks import RunRef
from subscribers.worker.pump import LOOK_AGAIN_SECONDS, RunPump
from subscribers.worker.writer import WriterStats
from tests.fixtures.processes import until
from tests.fixtures.roadparts import RUN, SOURCE, FakeLink, item, source_of
from tests.fixtures.roadsinks import MemoryLetters, MemoryLog, MemorySink

OTHER = source_of(rank=1)


class Bench:
    """A pump with a sink, a log and a clock of its own."""

    def __init__(self, has_log: bool = True) -> None:
        self.now = 100.0
        self.sink = MemorySink()
        self.log = MemoryLog()
        self.letters = MemoryLetters()
        self.link = FakeLink()
        self.pump = RunPump(
            RunRef("digits", RUN, "mlp"),
            self.sink,
            cast("AsyncEventLog", self.log) if has_log else None,
            self.letters,
            WriterStats(),
            lambda: self.now,
        )

    def deliver(self, *numbers: int, source: str = SOURCE) -> None:
        for number in numbers:
            self.pump.feed.offer(item(number, self.link.deliver(), source, self.now))
        self.pump.wake()

    async def quiet(self) -> None:
        await until(lambda: not self.pump.is_running)


async def test_what_comes_is_written_and_acknowledged_and_then_the_task_ends() -> None:
    bench = Bench()
    bench.deliver(2, 1)
    await bench.quiet()
    assert bench.sink.ids(SOURCE) == [1, 2]
    assert len(bench.link.acked) == 2
    bench.deliver(3)
    await bench.quiet()
    assert bench.sink.ids(SOURCE) == [1, 2, 3]
    assert bench.sink.opened == [RUN]


async def test_a_hole_is_read_from_the_log() -> None:
    bench = Bench()
    bench.log.hold(SOURCE, 1, 3)
    bench.deliver(4)
    bench.pump.feed.stored(SOURCE, IdRanges([(1, 4)]))
    bench.pump.wake()
    await bench.quiet()
    assert bench.sink.ids(SOURCE) == [1, 2, 3, 4]
    assert bench.log.reads == [(SOURCE, 1, 3)]


async def test_a_run_nobody_delivers_is_read_from_the_log_to_its_end() -> None:
    bench = Bench()
    bench.log.hold(SOURCE, 1, 250)
    bench.pump.feed.stored(SOURCE, bench.log.state(SOURCE).stored)
    bench.pump.wake()
    await until(lambda: bench.pump.is_running)
    await asyncio.sleep(0)
    bench.now += 10.0
    for _ in range(3):
        bench.pump.wake()
        await asyncio.sleep(0.01)
    await bench.quiet()
    assert bench.sink.ids(SOURCE) == list(range(1, 251))


async def test_a_log_that_is_away_is_waited_for() -> None:
    bench = Bench()
    bench.log.hold(SOURCE, 1)
    bench.log.errors = [LogError("locked", is_retryable=True)]
    bench.deliver(2)
    bench.pump.feed.stored(SOURCE, IdRanges([(1, 2)]))
    bench.pump.wake()
    await bench.quiet()
    assert bench.sink.ids(SOURCE) == [1, 2]


async def test_a_source_that_never_pauses_does_not_keep_another_from_the_log() -> None:
    bench = Bench()
    bench.log.hold(OTHER, 1)
    bench.deliver(2, source=OTHER)
    bench.pump.feed.stored(OTHER, IdRanges([(1, 2)]))
    bench.sink.may_write.clear()
    bench.deliver(1)
    await until(lambda: bool(bench.sink.writing))
    for number in range(2, 30):
        # The next is here whenever a write ends.
        bench.deliver(number)
        bench.now += LOOK_AGAIN_SECONDS / 4
        bench.sink.may_write.set()
        await until(lambda: number - 1 in bench.sink.ids(SOURCE))  # noqa: B023  # awaited at once
        bench.sink.may_write.clear()
        if bench.sink.ids(OTHER):
            break
    assert bench.sink.ids(OTHER) == [1, 2]
    bench.sink.may_write.set()
    await bench.quiet()


async def test_a_run_the_sink_refuses_becomes_dead_letters() -> None:
    bench = Bench()
    bench.sink.errors = [PermanentSinkError("deleted there")]
    bench.deliver(1, 2)
    await bench.quiet()
    assert bench.letters.kept == [1, 2]
    assert len(bench.link.acked) == 2


async def test_a_stop_lets_the_write_in_hand_finish_and_begins_none() -> None:
    bench = Bench()
    bench.sink.may_write.clear()
    bench.deliver(1)
    await until(lambda: bool(bench.sink.writing))
    bench.deliver(2)
    stopping = asyncio.create_task(bench.pump.stop(10.0))
    await asyncio.sleep(0)
    bench.sink.may_write.set()
    await stopping
    assert bench.sink.ids(SOURCE) == [1]
    assert len(bench.link.acked) == 1
    bench.pump.wake()
    assert not bench.pump.is_running


async def test_a_stop_does_not_wait_for_a_sink_that_is_down() -> None:
    bench = Bench()
    bench.sink.errors = [RetryableSinkError("down", 600.0)] * 10
    bench.deliver(1)
    await until(lambda: len(bench.sink.errors) < 10)
    await asyncio.wait_for(bench.pump.stop(10.0), 5.0)
    assert bench.link.acked == []


async def test_a_stop_cancels_a_write_that_takes_too_long() -> None:
    bench = Bench()
    bench.sink.may_write.clear()
    bench.deliver(1)
    await until(lambda: bool(bench.sink.writing))
    await asyncio.wait_for(bench.pump.stop(0.01), 5.0)
    assert not bench.pump.is_running
    assert bench.link.acked == []


async def test_an_error_of_ours_is_said_and_leaves_the_events_to_be_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.deliver(1)
    await bench.quiet()
    bench.sink.kinds = cast("frozenset[str]", None)  # breaks the writer
    bench.deliver(2)
    await bench.quiet()
    assert "the worker failed" in caplog.text
    assert not bench.pump.feed.is_quiet()
    # Failed, not stuck: stop() still works, and so does another attempt.
    bench.sink.kinds = MemorySink.kinds
    bench.pump.wake()
    await bench.quiet()
    assert bench.sink.ids(SOURCE) == [1, 2]
    await bench.pump.stop(1.0)


async def test_without_a_log_a_hole_is_waited_for() -> None:
    bench = Bench(has_log=False)
    bench.deliver(1, 3)
    await until(lambda: bench.sink.ids(SOURCE) == [1])
    assert bench.pump.is_running
    bench.deliver(2)
    await bench.quiet()
    assert bench.sink.ids(SOURCE) == [1, 2, 3]
