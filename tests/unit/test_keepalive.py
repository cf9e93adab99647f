"""How a worker keeps runs alive in their tracker."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import cast

import pytest

from bus.errors import LogError, PermanentSinkError, RetryableSinkError
from bus.eventlog import RunUnderWay
from bus.eventlog.aio import AsyncEventLog
from bus.ratelimit import Rate, RateLimits
from bus.sinks import RunRef
from bus.topics import Topics, shard_of, slot_of
from subscribers.worker.consumer import SinkConsumer
from subscribers.worker.keepalive import AT_ONCE, CALL_SECONDS, LEARN_SECONDS
from tests.fixtures.processes import until
from tests.fixtures.roadparts import RUN, FakeLink, event_bytes, source_of
from tests.fixtures.roadsinks import MemoryLetters, MemoryLog, MemorySink
from tests.fixtures.virtualtime import VirtualLoop, run_virtual

SHARDS = 4
ALL = frozenset(range(SHARDS))
START = 1000.0
INTERVAL = 300.0


class AliveSink(MemorySink):
    """Wants to be told of runs; notes when, and fails or hangs as it is told."""

    keep_alive_seconds = INTERVAL

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[float, str]] = []
        self.fails: Callable[[RunRef], Exception | None] = lambda run: None
        self.seconds = 0.0
        self.is_stubborn = False
        self.at_once = 0
        self.most_at_once = 0

    async def keep_alive(self, run: RunRef) -> None:
        self.told.append((asyncio.get_running_loop().time() - START, run.run))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            error = self.fails(run)
            if error is not None:
                raise error
            await self.wait()
        finally:
            self.at_once -= 1

    async def wait(self) -> None:
        end = asyncio.get_running_loop().time() + self.seconds
        while (left := end - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                if not self.is_stubborn:
                    raise

    def times(self, run: str = RUN) -> list[float]:
        return [at for at, name in self.told if name == run]


class Bench:
    """A worker of all shards, without a member: the log is changed by hand."""

    def __init__(self, limits: RateLimits | None, has_log: bool) -> None:
        self.loop = cast("VirtualLoop", asyncio.get_running_loop())
        self.sink = AliveSink()
        self.log = MemoryLog(self.loop.time)
        self.link = FakeLink()
        self.consumer = SinkConsumer(
            self.sink,
            Topics(),
            SHARDS,
            cast("AsyncEventLog", self.log) if has_log else None,
            MemoryLetters(),
            clock=self.loop.time,
            limits=limits,
        )

    def begin(self, run: str = RUN, sinks: list[str] | None = None) -> None:
        self.store(run, 1, "run_started", {"sinks": sinks})

    def end(self, run: str = RUN) -> None:
        self.store(run, 9, "run_finished", {"status": "completed", "last_id": 9})

    def store(self, run: str, number: int, kind: str, data: object) -> None:
        source = source_of(run)
        raw = event_bytes(number, kind, data, run)
        self.log.events.setdefault(source, {})[number] = raw

    def deliver(self, number: int, run: str = RUN, kind: str = "tags", data: object = None) -> None:
        raw = event_bytes(number, kind, data, run)
        self.consumer.on_delivery(shard(run), self.link.deliver_event(raw))


def shard(run: str = RUN) -> int:
    return shard_of(slot_of(run), SHARDS)


@asynccontextmanager
async def bench(limits: RateLimits | None = None, has_log: bool = True) -> AsyncIterator[Bench]:
    made = Bench(limits, has_log)
    tasks = [asyncio.create_task(work) for work in made.consumer.work()]
    try:
        yield made
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
        await made.consumer.release(ALL)


def own(made: Bench, *shards: int) -> None:
    for one in shards or ALL:
        made.consumer.on_shard(one)


def test_a_quiet_run_that_was_never_opened_here_is_kept_alive_until_it_ends() -> None:
    async def main() -> None:
        async with bench() as made:
            made.begin()
            own(made)
            await asyncio.sleep(5)
            assert len(made.sink.times()) == 1
            await asyncio.sleep(10 * INTERVAL)
            times = made.sink.times()
            assert 11 <= len(times) <= 12
            assert all(later - at <= INTERVAL + 1 for at, later in pairwise(times))
            assert RUN not in made.sink.opened
            made.end()
            await asyncio.sleep(LEARN_SECONDS + 1)
            count = len(made.sink.times())
            await asyncio.sleep(3 * INTERVAL)
            assert len(made.sink.times()) == count
            assert made.consumer.report()["keep_alive_runs"] == 0
            assert made.consumer.report()["keep_alives"] == count

    run_virtual(main())


def test_only_runs_of_our_shards_and_for_this_sink_are_kept_alive() -> None:
    async def main() -> None:
        async with bench() as made:
            runs = [f"r{number}" for number in range(20)]
            for run in runs:
                made.begin(run)
            made.begin("elsewhere", sinks=["mlflow"])
            made.begin("both", sinks=["mlflow", "memory"])
            made.log.hold(source_of("unknown"), 2, 4)
            own(made, 0, 1)
            await asyncio.sleep(2 * INTERVAL)
            told = {run for _, run in made.sink.told}
            ours = [*runs, "both", "unknown"]
            assert told == {run for run in ours if shard(run) in {0, 1}}
            own(made)
            await asyncio.sleep(INTERVAL)
            assert {run for _, run in made.sink.told} == set(ours)

    run_virtual(main())


def test_a_takeover_tells_of_all_runs_soon_a_few_at_once() -> None:
    async def main() -> None:
        async with bench() as made:
            made.sink.seconds = 0.05
            for number in range(1000):
                made.begin(f"r{number}")
            own(made)
            await asyncio.sleep(INTERVAL / 4 + 5)
            assert len({run for _, run in made.sink.told}) == 1000
            assert made.sink.most_at_once <= AT_ONCE
            # 1,000 in 75 s are 13 in a second.
            seconds = Counter(int(at) for at, _ in made.sink.told)
            assert max(seconds.values()) <= 30

    run_virtual(main())


def test_a_failure_is_counted_told_once_for_its_cause_and_not_tried_again_before_its_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors = {
        "r0": PermanentSinkError("run r0 is locked"),
        "r1": PermanentSinkError("run r1 is locked"),
        "r2": RetryableSinkError("down"),
        "r3": ValueError("a bug"),
    }

    async def main() -> None:
        async with bench() as made:
            made.sink.fails = lambda run: errors.get(run.run)
            for number in range(5):
                made.begin(f"r{number}")
            own(made)
            await asyncio.sleep(INTERVAL / 4 + 1)
            assert len(made.sink.told) == 5
            report = made.consumer.report()
            assert (report["keep_alives"], report["keep_alive_failures"]) == (1, 4)
            await asyncio.sleep(3 * INTERVAL)
            assert all(3 <= len(made.sink.times(f"r{n}")) <= 5 for n in range(5))

    run_virtual(main())
    assert caplog.text.count("is locked") == 1
    assert caplog.text.count("down") == 1
    assert caplog.text.count("ValueError: a bug") == 1


def test_a_call_that_hangs_holds_up_neither_the_others_nor_a_handover_nor_the_end() -> None:
    async def main() -> None:
        async with bench() as made:
            for number in range(8):
                made.begin(f"r{number}")
            made.sink.seconds = 1e6
            own(made)
            await asyncio.sleep(INTERVAL + CALL_SECONDS)
            assert len({run for _, run in made.sink.told}) == 8
            assert made.consumer.report()["keep_alive_failures"] >= 8
            made.sink.is_stubborn = True
            await asyncio.sleep(CALL_SECONDS)
            began = made.loop.time()
            await made.consumer.release(frozenset({0, 1}))
            assert made.loop.time() - began <= 1.0
            made.loop.call_later(3.0, setattr, made.sink, "is_stubborn", False)
            ending = made.loop.time()
        assert made.loop.time() - ending <= 4.0

    run_virtual(main())


def test_a_write_never_waits_for_a_token_that_a_quiet_run_took() -> None:
    async def main() -> None:
        async with bench(RateLimits(sink=Rate(0.5, 4.0))) as made:
            for number in range(2000):
                made.begin(f"quiet{number}")
            own(made)
            await asyncio.sleep(60)
            assert len(made.sink.told) > 20
            for number in range(1, 6):
                began = made.loop.time()
                made.deliver(number)
                await asyncio.sleep(0)
                await until(lambda: len(made.sink.ids(source_of())) == number)  # noqa: B023  # at once
                assert made.loop.time() - began <= 0.05
                await asyncio.sleep(4)

    run_virtual(main())


def test_while_writes_want_all_there_is_quiet_runs_wait() -> None:
    async def main() -> None:
        async with bench(RateLimits(sink=Rate(1.0, 1.0))) as made:
            made.begin("quiet")
            for number in range(200):
                made.deliver(1, f"r{number}")
            own(made)
            await asyncio.sleep(100)
            assert made.sink.told == []
            await asyncio.sleep(600)
            assert made.sink.times("quiet")

    run_virtual(main())


def test_a_pause_and_an_open_circuit_hold_for_it_and_a_pause_it_is_asked_for_holds_for_all() -> (
    None
):
    async def main() -> None:
        async with bench() as made:
            own(made)
            await asyncio.sleep(1)
            made.begin()
            made.sink.fails = lambda run: RetryableSinkError("429", 60.0)
            await asyncio.sleep(LEARN_SECONDS + 1)
            assert len(made.sink.told) == 1
            asked_at = made.sink.told[0][0]
            assert made.consumer.report()["rate_asked_seconds"] > 25
            made.begin("r2")
            made.deliver(1, "r2")
            await asyncio.sleep(20)
            assert made.sink.ids(source_of("r2"), "r2") == []
            await asyncio.sleep(INTERVAL / 4)
            assert made.sink.times("r2")[0] >= asked_at + 60
            assert made.sink.ids(source_of("r2"), "r2") == [1]

    run_virtual(main())


def test_failures_open_no_circuit_and_a_success_closes_none() -> None:
    async def main() -> None:
        async with bench() as made:
            made.sink.fails = lambda run: RetryableSinkError("no such call")
            for number in range(50):
                made.begin(f"r{number}")
            own(made)
            await asyncio.sleep(INTERVAL)
            assert made.consumer.report()["keep_alive_failures"] >= 50
            assert made.consumer.report()["circuit"]["state"] == "closed"
            made.deliver(1)
            await asyncio.sleep(0.5)
            assert made.sink.ids(source_of()) == [1]

    run_virtual(main())


def test_a_log_that_is_away_is_said_once_and_the_runs_known_are_kept_alive(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with bench() as made:
            made.begin()
            own(made)
            await asyncio.sleep(10)
            made.log._fail = lambda: _raise(LogError("away", True))  # type: ignore[method-assign]  # for as long as it takes
            await asyncio.sleep(4 * INTERVAL)
            assert len(made.sink.times()) >= 4

    run_virtual(main())
    assert caplog.text.count("cannot look for the runs to keep alive: away") == 1


def test_a_log_that_hangs_holds_up_neither_the_calls_nor_the_end() -> None:
    async def main() -> None:
        async with bench() as made:
            made.begin()
            own(made)
            await asyncio.sleep(10)

            async def hang(since: float, run: object = None) -> list[RunUnderWay]:
                await asyncio.sleep(1e9)
                return []

            made.log.runs_under_way = hang  # type: ignore[method-assign]  # for good
            await asyncio.sleep(4 * INTERVAL)
            assert len(made.sink.times()) >= 4
            ending = made.loop.time()
        assert made.loop.time() - ending <= 2.0

    run_virtual(main())


def _raise(error: Exception) -> None:
    raise error


def test_without_the_log_the_runs_that_were_seen_are_kept_alive() -> None:
    async def main() -> None:
        async with bench(has_log=False) as made:
            own(made)
            made.deliver(1, kind="run_started", data={})
            made.deliver(1, "r2", kind="run_started", data={"sinks": ["mlflow"]})
            made.deliver(2, "r2")
            await asyncio.sleep(3 * INTERVAL)
            assert len(made.sink.times()) >= 3
            assert made.sink.times("r2") == []
            made.deliver(2, kind="run_finished", data={"status": "completed", "last_id": 2})
            made.deliver(1, kind="run_started", data={})
            await asyncio.sleep(LEARN_SECONDS)
            count = len(made.sink.times())
            await asyncio.sleep(3 * INTERVAL)
            assert len(made.sink.times()) == count

    run_virtual(main())


def test_a_sink_that_wants_no_such_thing_is_left_alone() -> None:
    async def main() -> None:
        consumer = SinkConsumer(MemorySink(), Topics(), SHARDS, None, MemoryLetters())
        assert "keep_alives" not in consumer.report()
        works = consumer.work()
        assert len(works) == 1
        works[0].close()

    run_virtual(main())
