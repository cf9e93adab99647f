"""A pause that a tracker asks of one member holds for the group, and no member can abuse that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest

from bus.circuit import MAX_PAUSE_SECONDS
from bus.errors import RetryableSinkError
from bus.eventlog.aio import AsyncEventLog
from bus.events import Event
from bus.group.heartbeat import Heartbeat, decode_heartbeat
from bus.group.pause import NEWS_SECONDS, REMEMBERED_MEMBERS, REPORT_KEY, GroupPauses
from bus.sinks import Marks, RunRef
from bus.topics import Topics
from subscribers.worker.consumer import SinkConsumer
from tests.fixtures.roadparts import FakeLink, event_bytes, source_of
from tests.fixtures.roadsinks import MemoryLetters, MemoryLog, MemorySink
from tests.fixtures.virtualtime import VirtualLoop, run_virtual

DELAY_SECONDS = 0.05
"""Of a heartbeat on its way."""


def report(seconds: Any) -> dict[str, Any]:
    return {REPORT_KEY: seconds}


def test_a_pause_asked_of_one_is_told_at_once_and_again_only_when_it_grows() -> None:
    pauses = GroupPauses()
    assert pauses.asked(30.0, 100.0)
    # Hundreds of calls are refused with it, in the same moment.
    assert not pauses.asked(30.0, 100.5)
    assert not pauses.asked(5.0, 101.0)
    assert pauses.asked(30.0, 100.5 + NEWS_SECONDS)
    assert pauses.remaining_seconds(110.0) == pytest.approx(21.5)
    assert pauses.remaining_seconds(500.0) == 0.0
    assert not pauses.asked(None, 500.0)
    assert not pauses.asked(0.5, 500.0)


def test_what_was_heard_of_others_is_not_passed_on() -> None:
    pauses = GroupPauses()
    assert pauses.heard("b", report(30), 100.0) == 30.0
    assert pauses.remaining_seconds(100.0) == 0.0


@pytest.mark.parametrize(
    "seconds", [None, True, "30", [30], -1, 0, float("nan"), float("inf"), {"a": 1}]
)
def test_what_is_no_pause_is_none(seconds: Any) -> None:
    assert GroupPauses().heard("b", report(seconds), 100.0) == 0.0
    assert GroupPauses().heard("b", {}, 100.0) == 0.0


def test_a_member_that_asks_for_ever_is_heeded_for_an_hour_and_then_no_more() -> None:
    pauses = GroupPauses()
    paused = [now + pauses.heard("broken", report(10**12), float(now)) for now in range(30_000)]
    assert paused[:3600] == [MAX_PAUSE_SECONDS] * 3600
    assert paused[3600:] == list(range(3600, 30_000))
    # Another is still believed, and this one is once it has said that its pause is over.
    assert pauses.heard("b", report(20), 30_000.0) == 20.0
    assert pauses.heard("broken", report(0), 30_000.0) == 0.0
    assert pauses.heard("broken", report(20), 30_001.0) == 20.0


def test_members_that_come_and_go_leave_nothing_behind() -> None:
    pauses = GroupPauses()
    for number in range(3 * REMEMBERED_MEMBERS):
        pauses.heard(f"m{number}", report(9), 0.0)
    assert len(pauses._since) == REMEMBERED_MEMBERS
    pauses.left(f"m{3 * REMEMBERED_MEMBERS - 1}")
    pauses.left("nobody")
    assert len(pauses._since) == REMEMBERED_MEMBERS - 1


class CallSink(MemorySink):
    """Notes when it is called; the next call is refused with a pause, if one is set."""

    def __init__(self, pause_seconds: float | None) -> None:
        super().__init__()
        self.calls: list[float] = []
        self.pause_seconds = pause_seconds

    async def open_run(self, run: RunRef) -> Marks:
        self.note()
        return await super().open_run(run)

    async def write(self, run: RunRef, events: Sequence[Event], marks: Marks) -> None:
        self.note()
        await super().write(run, events, marks)

    def note(self) -> None:
        self.calls.append(asyncio.get_running_loop().time())
        pause, self.pause_seconds = self.pause_seconds, None
        if pause is not None:
            raise RetryableSinkError("429", pause)


class Member:
    """A worker, and its heartbeats to the others: once a second, and when it has to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = cast("VirtualLoop", asyncio.get_running_loop())
        self.sink = CallSink(None)
        self.others: list[Member] = []
        self.news = asyncio.Event()
        self.last = 0
        self.link = FakeLink()
        log = cast("AsyncEventLog", MemoryLog(self.loop.time))
        self.consumer = SinkConsumer(
            self.sink, Topics(), 2, log, MemoryLetters(), clock=self.loop.time
        )
        self.consumer.tell_pauses_to(self.news.set)

    async def beat(self) -> None:
        while True:
            raw = msgspec.json.encode(Heartbeat(self.name, 2, report=self.consumer.report()))
            for other in self.others:
                self.loop.call_later(
                    DELAY_SECONDS, other.consumer.on_heartbeat, decode_heartbeat(raw)
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.news.wait()
            self.news.clear()

    def deliver(self) -> None:
        self.last += 1
        raw = event_bytes(self.last, run=self.name)
        self.consumer.on_delivery(0, self.link.deliver_event(raw))

    def written(self) -> list[int]:
        return self.sink.ids(source_of(self.name), self.name)


@asynccontextmanager
async def group(*names: str) -> AsyncIterator[list[Member]]:
    members = [Member(name) for name in names]
    works = []
    for number, member in enumerate(members):
        member.others = [other for other in members if other is not member]
        member.consumer.on_shard(number)
        works += [*member.consumer.work(), member.beat()]
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield members
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in members:
            await member.consumer.release(frozenset({0, 1}))


def test_while_one_member_is_told_to_wait_no_other_makes_a_request() -> None:
    async def main() -> None:
        async with group("a", "b", "c") as (a, b, c):
            await asyncio.sleep(0.7)
            a.sink.pause_seconds = 30.0
            a.deliver()
            await asyncio.sleep(DELAY_SECONDS * 2)
            asked_at = a.sink.calls[-1]
            for _ in range(40):
                for member in (a, b, c):
                    member.deliver()
                await asyncio.sleep(1)
            for member in (a, b, c):
                calls = [at for at in member.sink.calls if at > asked_at]
                # The way of one heartbeat is what it may be longer elsewhere, and no more.
                assert asked_at + 30 <= min(calls) <= asked_at + 30 + DELAY_SECONDS + 0.5
                assert member.written() == list(range(1, member.last + 1))
            assert a.consumer.report()["rate_paused_seconds"] == 0.0

    run_virtual(main())


def test_a_newcomer_and_one_whose_comrade_has_gone_keep_the_pause_too() -> None:
    async def main() -> None:
        async with group("a", "b") as (a, b):
            a.others, b.others = [], []
            a.sink.pause_seconds = 30.0
            a.deliver()
            await asyncio.sleep(5)
            a.others = [b]  # only now do they hear each other
            await asyncio.sleep(2)
            a.others = []
            b.consumer.on_heartbeat(Heartbeat("a", 2, has_left=True))
            b.deliver()
            await asyncio.sleep(20)
            assert b.sink.calls == []
            await asyncio.sleep(10)
            assert b.sink.calls

    run_virtual(main())


def test_a_pause_asked_again_and_again_holds_and_ends_with_the_last() -> None:
    async def main() -> None:
        async with group("a", "b") as (a, b):
            a.sink.pause_seconds = 10.0
            began = a.loop.time()
            a.deliver()
            await asyncio.sleep(9)
            b.deliver()
            a.sink.pause_seconds = 10.0
            await asyncio.sleep(8)
            assert len(a.sink.calls) == 2
            # Both came back at the end of the first pause; who was refused then told the other.
            assert all(at < began + 11 or at > a.sink.calls[1] + 10 for at in b.sink.calls)
            await asyncio.sleep(10)
            assert a.written() == [1]

    run_virtual(main())
