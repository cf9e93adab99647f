"""What a tracker wants stopped is published, whatever happens to the broker meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import orjson
import pytest

from bus.control import MAX_SOURCES, StopNotice, decode_control
from bus.errors import BrokerError, LogError
from bus.eventlog import RunUnderWay
from bus.eventlog.aio import AsyncEventLog
from bus.sinks import RunRef
from bus.topics import Topics
from subscribers.worker.stops import LOG_SECONDS, REMEMBERED_STOPS, SHOWN_STOPS, StopNotices
from tests.fixtures.roadparts import RUN, SOURCE, source_of
from tests.fixtures.roadsinks import MemoryLog
from tests.fixtures.virtualtime import run_virtual

TOPICS = Topics()
ASKED_AT = 1_800_000_000.0
REF = RunRef("digits", RUN, "mlp")


class Broker:
    """Takes what is published, or not; may hang."""

    def __init__(self) -> None:
        self.got: list[tuple[str, StopNotice]] = []
        self.failures = 0
        self.is_hanging = False

    async def publish(self, topic: str, payload: bytes) -> None:
        if self.is_hanging:
            await asyncio.Event().wait()
        if self.failures:
            self.failures -= 1
            raise BrokerError("away")
        self.got.append((topic, decode_control(payload)))


@asynccontextmanager
async def notices(broker: Broker, log: MemoryLog | None = None) -> AsyncIterator[StopNotices]:
    made = StopNotices(
        "hub",
        TOPICS,
        broker.publish,
        cast("AsyncEventLog", log) if log else None,
        asyncio.get_running_loop().time,
        lambda: ASKED_AT,
    )
    task = asyncio.create_task(made.run())
    try:
        yield made
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_stop_names_the_processes_that_are_under_way(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        broker, log = Broker(), MemoryLog()
        log.hold(SOURCE, 1)
        log.hold(source_of(rank=1), 1)
        log.hold(source_of(rank=1), 2, kind="run_finished")
        log.hold(source_of("r2"), 1)
        async with notices(broker, log) as made:
            assert made.report() == []
            made.tell(REF, "stopped on the web page")
            await asyncio.sleep(1)
            notice = StopNotice("stopped on the web page", "hub", ASKED_AT, (SOURCE,))
            assert broker.got == [(TOPICS.control("digits", RUN), notice)]
            (shown,) = made.report()
            assert (shown["run"], shown["published"]) == (RUN, True)

    run_virtual(main())
    assert f"run {RUN} is asked to stop: stopped on the web page" in caplog.text


def test_a_stop_is_published_once_the_broker_is_back_and_others_meanwhile() -> None:
    async def main() -> None:
        broker = Broker()
        async with notices(broker) as made:
            broker.failures = 20
            made.tell(REF, "one")
            await asyncio.sleep(5)
            made.tell(REF, "again")
            made.tell(RunRef("digits", "r2", "x"), "two")
            assert [one["published"] for one in made.report()] == [False, False]
            await asyncio.sleep(120)
            assert sorted(n.reason for _, n in broker.got) == ["one", "two"]
            assert [n.sources for _, n in broker.got] == [(), ()]
            made.tell(REF, "once more")
            await asyncio.sleep(1)
            assert broker.got[-1][1].reason == "once more"

    run_virtual(main())


def test_a_stop_is_sent_again_more_and_more_seldom_to_those_that_go_on() -> None:
    async def main() -> None:
        broker, log = Broker(), MemoryLog()
        log.hold(SOURCE, 1)
        log.hold(source_of(rank=1), 1)
        loop = asyncio.get_running_loop()
        async with notices(broker, log) as made:
            began = loop.time()
            made.tell(REF, "x")
            await asyncio.sleep(1)
            log.hold(SOURCE, 2, kind="run_finished")
            # It was started before, and is heard of only now; the other was started since.
            log.hold(source_of(rank=2), 1)
            log.hold(f"/runs/{RUN}/0/2-{int(ASKED_AT) + 1:x}-7f3e9b21c4d5a6e0/node-0", 1)
            log.errors = [LogError("away", True)]
            await asyncio.sleep(8 * 3600)
            told = [n.sources for _, n in broker.got]
            assert told[:2] == [(SOURCE, source_of(rank=1))] * 2
            assert set(told[2:]) == {(source_of(rank=1), source_of(rank=2))}
            assert len(told) == 10
            assert loop.time() > began + 8 * 3600

    run_virtual(main())


def test_a_stop_is_not_sent_again_once_the_run_has_ended() -> None:
    async def main() -> None:
        broker, log = Broker(), MemoryLog()
        log.hold(SOURCE, 1)
        async with notices(broker, log) as made:
            made.tell(REF, "x")
            await asyncio.sleep(1)
            log.hold(SOURCE, 2, kind="run_finished")
            await asyncio.sleep(7200)
            assert len(broker.got) == 1

    run_virtual(main())


def test_a_log_that_is_away_does_not_keep_a_run_going() -> None:
    async def main() -> None:
        broker, log = Broker(), MemoryLog()
        log.errors = [LogError("away", True)]
        async with notices(broker, log) as made:
            made.tell(REF, "x")
            await asyncio.sleep(1)
            assert [n.sources for _, n in broker.got] == [()]

    run_virtual(main())


def test_a_log_that_hangs_does_not_keep_a_run_going() -> None:
    class Hanging(MemoryLog):
        async def runs_under_way(
            self, since: float, run: tuple[str, str] | None = None
        ) -> list[RunUnderWay]:
            await asyncio.sleep(1e9)
            return []

    async def main() -> None:
        broker = Broker()
        async with notices(broker, Hanging()) as made:
            made.tell(REF, "x")
            await asyncio.sleep(LOG_SECONDS + 0.1)
            assert [n.sources for _, n in broker.got] == [()]

    run_virtual(main())


def test_a_run_of_very_many_processes_is_told_in_several_notices() -> None:
    class Crowd(MemoryLog):
        async def runs_under_way(
            self, since: float, run: tuple[str, str] | None = None
        ) -> list[RunUnderWay]:
            names = tuple(source_of(rank=rank) for rank in range(MAX_SOURCES + 3))
            return [RunUnderWay("digits", RUN, "mlp", names)]

    async def main() -> None:
        broker = Broker()
        async with notices(broker, Crowd()) as made:
            made.tell(REF, "x")
            await asyncio.sleep(1)
            assert [len(n.sources) for _, n in broker.got] == [MAX_SOURCES, 3]

    run_virtual(main())


def test_what_a_sink_says_wrongly_ends_nothing() -> None:
    async def main() -> None:
        broker = Broker()
        async with notices(broker) as made:
            made.tell(RunRef("", "", ""), "of no run")
            made.tell(RunRef("digits", "\ud800", ""), "of an odd run")
            made.tell(REF, "two\nlines\x1b[31m and much" + " more" * 1000)
            await asyncio.sleep(1)
            assert [topic for topic, _ in broker.got] == [TOPICS.control("digits", RUN)]
            assert len(orjson.dumps(made.report())) < 1000

    run_virtual(main())


def test_what_is_kept_and_shown_has_a_bound_and_what_waits_stays_longest() -> None:
    async def main() -> None:
        broker = Broker()
        async with notices(broker) as made:
            broker.is_hanging = True
            made.tell(REF, "waits")
            await asyncio.sleep(1)
            for number in range(REMEMBERED_STOPS - 1):
                made.tell(RunRef("digits", f"x{number}", ""), "x")
            for one in list(made._stops.values())[1:]:
                one.is_published = True
            for number in range(50):
                made.tell(RunRef("digits", f"new{number}", ""), "x")
            assert len(made._stops) == REMEMBERED_STOPS
            assert made._stops["digits", RUN].reason == "waits"
            assert len(made.report()) == SHOWN_STOPS

    run_virtual(main())
