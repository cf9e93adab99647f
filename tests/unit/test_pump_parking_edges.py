"""Parked events when there is no log, marks move, a letter is retried, or the worker stops."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from bus.errors import MarksMovedError
from bus.eventlog.aio import AsyncEventLog
from bus.idranges import IdRanges
from bus.item import Item
from bus.ratelimit import RateLimits
from bus.sinks import Marks, RunRef
from subscribers.worker.gate import SinkGate
from subscribers.worker.pump import RunPump
from subscribers.worker.writer import WriterStats
from tests.fixtures.limitbench import START, CountingSink, bench, limits
from tests.fixtures.roadparts import RUN, SOURCE, FakeLink, event_bytes
from tests.fixtures.roadsinks import MemoryLetters, MemoryLog
from tests.fixtures.virtualtime import VirtualLoop, run_virtual

LIMIT = limits(checkpoint="4/hour")


class Worker:
    """A pump by itself, which may have no log."""

    def __init__(self, log: MemoryLog | None = None, limit: RateLimits = LIMIT) -> None:
        self.loop = cast("VirtualLoop", asyncio.get_running_loop())
        self.sink = CountingSink()
        self.link = FakeLink()
        self.stats = WriterStats()
        self.pump = RunPump(
            RunRef("digits", RUN, "mlp"),
            self.sink,
            cast("AsyncEventLog", log) if log else None,
            MemoryLetters(),
            self.stats,
            self.loop.time,
            SinkGate(limit, clock=self.loop.time),
        )

    def deliver(self, number: int, kind: str = "tags", **flags: Any) -> None:
        self.offer(make(number, kind, self.link, self.loop.time(), **flags))

    def offer(self, item: Item) -> None:
        self.pump.feed.offer(item)
        self.pump.wake()


def make(number: int, kind: str, link: FakeLink | None, since: float, **flags: Any) -> Item:
    if kind != "checkpoint":
        data = {"status": "completed", "last_id": number} if kind == "run_finished" else None
        raw = event_bytes(number, kind, data)
    else:
        blob = {"name": "last.pt", "size": 1, "sha256": "0" * 64}
        raw = event_bytes(number, kind, {"blob": blob, **flags}, dataref="file:///store/1")
    return Item(SOURCE, number, kind, raw, link.deliver() if link else None, since)


def test_without_a_log_what_is_parked_is_held_and_the_final_one_supersedes_it() -> None:
    async def main() -> None:
        worker = Worker()
        for number in (1, 2, 3):
            worker.deliver(number, "checkpoint", best=number == 2)
            await asyncio.sleep(1)
        worker.deliver(4)
        await asyncio.sleep(1)
        assert worker.sink.ids(SOURCE) == [1, 4]
        assert len(worker.link.acked) == 2
        worker.deliver(5, "checkpoint", final=True)
        worker.deliver(6, "run_finished")
        await asyncio.sleep(1)
        assert worker.sink.ids(SOURCE) == [1, 4, 5]
        assert str(worker.sink.marks[RUN].superseded[SOURCE]) == "3"
        await asyncio.sleep(900)
        assert worker.sink.ids(SOURCE) == [1, 4, 5, 2, 6]
        assert len(worker.link.acked) == 6
        assert not worker.pump.is_running

    run_virtual(main())


def test_without_a_log_what_was_parked_comes_again_to_the_next_worker() -> None:
    async def main() -> None:
        worker = Worker()
        worker.sink.marks[RUN] = Marks({SOURCE: IdRanges([(1, 1), (3, 9)])})
        worker.deliver(10)
        await asyncio.sleep(5)
        assert worker.sink.ids(SOURCE) == [], "nobody knows what 2 is"
        worker.deliver(2, "checkpoint")
        await asyncio.sleep(1000)
        assert sorted(worker.sink.ids(SOURCE)) == [2, 10]

    run_virtual(main())


def test_marks_that_moved_while_others_were_parked_are_gone_on_from() -> None:
    async def main() -> None:
        worker = Worker()
        worker.deliver(1, "checkpoint")
        await asyncio.sleep(1)
        worker.deliver(2, "checkpoint", best=True)
        worker.deliver(3, "checkpoint")
        await asyncio.sleep(1)
        # Another worker has written 2, which is parked here.
        worker.sink.errors = [MarksMovedError("version 7")]
        worker.sink.marks[RUN] = Marks({SOURCE: IdRanges([(1, 2)])})
        worker.deliver(4)
        await asyncio.sleep(1)
        assert worker.sink.ids(SOURCE) == [1, 4]
        await asyncio.sleep(1000)
        assert worker.sink.ids(SOURCE) == [1, 4, 3]
        assert len(worker.link.acked) == 4

    run_virtual(main())


def test_a_letter_that_is_retried_waits_for_its_token_and_holds_up_nobody() -> None:
    async def main() -> None:
        worker = Worker()
        dead = {SOURCE: IdRanges([(1, 1)])}
        worker.sink.marks[RUN] = Marks({SOURCE: IdRanges([(1, 1)])}, dead)
        worker.deliver(2, "checkpoint")
        await asyncio.sleep(901)
        assert worker.sink.ids(SOURCE) == [2]
        letter = make(1, "checkpoint", None, worker.loop.time())
        letter.is_retry = True
        worker.offer(letter)
        worker.deliver(3)
        await asyncio.sleep(1)
        assert worker.sink.ids(SOURCE) == [2, 3]
        await asyncio.sleep(900)
        assert worker.sink.ids(SOURCE) == [2, 3, 1]
        assert worker.sink.marks[RUN].dead == {}

    run_virtual(main())


def test_a_worker_that_stops_does_not_wait_for_what_is_parked() -> None:
    async def main() -> None:
        async with bench(LIMIT) as made:
            made.checkpoint(1)
            await asyncio.sleep(1)
            made.checkpoint(2, best=True)
            await asyncio.sleep(20)
            assert made.consumer.report()["rate_waiting_runs"] == 1
            began = made.loop.time()
            await made.stop()
            assert made.loop.time() - began < 1
            assert made.consumer.report()["rate_waiting_runs"] == 0
            assert made.written() == [1]
            made.start()

    run_virtual(main())


def test_checkpoints_far_ahead_in_the_log_count_when_a_token_comes() -> None:
    async def main() -> None:
        log = MemoryLog()
        events = {}
        # Beyond what is read at once, and what would be written at once.
        for number in range(1, 1201):
            events[number] = make(number, "checkpoint", None, 0.0, best=number == 900).raw
        log.events[SOURCE] = events
        worker = Worker(log)
        worker.pump.feed.stored(SOURCE, IdRanges([(1, 1200)]))
        worker.pump.wake()
        await asyncio.sleep(30)
        assert worker.sink.ids(SOURCE) == [900]
        await asyncio.sleep(900)
        assert worker.sink.ids(SOURCE) == [900, 1200]
        assert worker.stats.superseded == 1198
        assert [at for at, _, kinds in worker.sink.calls if kinds][1] > 899
        assert worker.loop.time() > START

    run_virtual(main())
