"""What every sink does, shown with the worker's own pump against the tracker of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bus.errors import RetryableSinkError
from bus.events import Event, encode
from bus.feed import Item
from bus.sinks import RunRef, Sink
from subscribers.worker.pump import RunPump
from subscribers.worker.writer import WriterStats
from tests.contract.cases import EPOCHS, SinkCase
from tests.contract.clearml_live_case import ClearmlLiveCase
from tests.contract.clearml_offline_case import ClearmlOfflineCase
from tests.contract.hub_case import HubCase
from tests.contract.mlflow_case import MlflowCase
from tests.contract.platform_case import PlatformCase
from tests.fixtures.feed import Feed, marks_of
from tests.fixtures.processes import until
from tests.fixtures.roadsinks import MemoryLetters
from tests.integration.clearml_feed import QUIET

CASES: dict[str, type[SinkCase]] = {
    "clearml": ClearmlLiveCase,
    "clearml-offline": ClearmlOfflineCase,
    "hub": HubCase,
    "mlflow": MlflowCase,
    "platform": PlatformCase,
}

STOP_SECONDS = 2.0
BOUND_SECONDS = 20.0
"""Of a stop, for a machine that is busy with other things."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), QUIET]


WITH_SERVER = sorted(name for name, case in CASES.items() if case.can_be_down)
with_server = pytest.mark.parametrize("case", WITH_SERVER, indirect=True)


@pytest.fixture(params=sorted(CASES))
def case(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SinkCase]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    case = CASES[request.param](tmp_path)
    try:
        yield case
    finally:
        case.close()


class Worker:
    """A worker of one run: a sink of its own, and the pump that a worker has for each run."""

    def __init__(self, sink: Sink, run: RunRef) -> None:
        self.sink = sink
        self.letters = MemoryLetters()
        self.stats = WriterStats()
        self.pump = RunPump(run, sink, None, self.letters, self.stats)

    def offer(self, events: Sequence[Event]) -> None:
        now = asyncio.get_running_loop().time()
        for event in events:
            item = Item(event.source, event.id, event.kind, encode(event), None, now)
            self.pump.feed.offer(item)
        self.pump.wake()

    async def finish(self, seconds: float = 60.0) -> None:
        """Until everything that was offered is written or given up."""
        await until(lambda: self.pump.feed.is_quiet() and not self.pump.is_running, seconds)

    async def write(self, events: Sequence[Event]) -> None:
        self.offer(events)
        await self.finish()


@asynccontextmanager
async def working(case: SinkCase, run: RunRef) -> AsyncIterator[Worker]:
    worker = Worker(case.make_sink(), run)
    try:
        yield worker
    finally:
        await worker.pump.stop(STOP_SECONDS)
        await worker.sink.close_run(run)
        await worker.sink.close()


async def test_a_run_is_there_once_also_after_it_was_replayed_twice(case: SinkCase) -> None:
    feed = Feed("r1", "contract")
    events = case.whole_run(feed)
    for _ in range(3):
        async with working(case, feed.ref) as worker:
            await worker.write(events)
            assert worker.letters.kept == []
    points, status = await case.ask(feed.ref)
    assert points == case.expected()
    assert status == case.statuses["completed"]


async def test_a_batch_whose_answer_was_lost_is_there_once(case: SinkCase) -> None:
    feed = Feed("r1", "contract")
    events = case.whole_run(feed)
    sink = case.make_sink()
    await sink.open_run(feed.ref)
    for _ in range(2):
        await sink.write(feed.ref, events, marks_of(events))
    await sink.close()
    points, _ = await case.ask(feed.ref)
    assert points == case.expected()


async def test_a_worker_that_takes_over_goes_on_where_the_other_was_killed(
    case: SinkCase,
) -> None:
    feed = Feed("r1", "contract")
    events = case.whole_run(feed)
    killed = Worker(case.make_sink(), feed.ref)
    await killed.write(events[:5])
    async with working(case, feed.ref) as worker:
        await worker.write(events)
        assert worker.stats.delivered + worker.stats.not_applicable == len(events) - 5
    await killed.sink.close()
    points, status = await case.ask(feed.ref)
    assert points == case.expected()
    assert status == case.statuses["completed"]


@pytest.mark.parametrize("end", ["failed", "killed"])
async def test_a_run_ends_with_its_true_status(case: SinkCase, end: str) -> None:
    feed = Feed("r1", "contract")
    async with working(case, feed.ref) as worker:
        await worker.write(case.whole_run(feed, end))
    points, status = await case.ask(feed.ref)
    assert points == case.expected()
    assert status == case.statuses[end]


async def test_two_runs_at_once_do_not_mix(case: SinkCase) -> None:
    feeds = [Feed(f"r{number}", "contract") for number in range(2)]
    sink = case.make_sink()
    workers = [Worker(sink, feed.ref) for feed in feeds]
    runs = [case.whole_run(feed) for feed in feeds]
    for pair in zip(*runs, strict=True):
        for worker, event in zip(workers, pair, strict=True):
            worker.offer([event])
            await asyncio.sleep(0)
    for worker in workers:
        await worker.finish()
        await worker.pump.stop(STOP_SECONDS)
    await sink.close()
    for feed in feeds:
        points, status = await case.ask(feed.ref)
        assert points == case.expected()
        assert status == case.statuses["completed"]


@with_server
async def test_an_outage_loses_nothing_and_writes_nothing_twice(case: SinkCase) -> None:
    feed = Feed("r1", "contract")
    events = case.whole_run(feed)
    async with working(case, feed.ref) as worker:
        await worker.write(events[:4])
        await asyncio.to_thread(case.break_down)
        worker.offer(events[4:])
        await until(lambda: worker.stats.retries >= 2, 30, "tries that fail")
        if case.can_be_asked:
            with pytest.raises(RetryableSinkError):
                await worker.sink.contents(feed.ref)
        await asyncio.to_thread(case.heal)
        await worker.finish(90)
        assert worker.letters.kept == []
    points, status = await case.ask(feed.ref)
    assert points == case.expected()
    assert status == case.statuses["completed"]


async def test_a_poisonous_event_becomes_a_dead_letter_and_costs_only_itself(
    case: SinkCase,
) -> None:
    feed = Feed("r1", "contract")
    start = case.started(feed)
    first = [case.epoch(feed, number) for number in range(3)]
    poison = case.poison(feed)
    rest = [case.epoch(feed, number) for number in range(3, EPOCHS)]
    events = [*start, *first, poison, *rest, feed.finished()]
    async with working(case, feed.ref) as worker:
        await worker.write(events)
        assert worker.letters.kept == [poison.id]
        contents = await worker.sink.contents(feed.ref)
        assert contents is not None
        assert contents.marks == marks_of(events, dead=[poison])
    points, _ = await case.ask(feed.ref)
    assert points == case.expected()


@with_server
async def test_a_worker_stops_in_time_although_the_tracker_hangs(case: SinkCase) -> None:
    feed = Feed("r1", "contract")
    events = case.whole_run(feed)
    async with working(case, feed.ref) as worker:
        await worker.write(events[:4])
        await asyncio.to_thread(case.hang)
        worker.offer(events[4:])
        await until(lambda: worker.pump.waiting_seconds(worker.pump.active_at + 60) > 0, 10)
        async with asyncio.timeout(BOUND_SECONDS):
            await worker.pump.stop(STOP_SECONDS)
            await worker.sink.close()
    await asyncio.to_thread(case.heal)
    async with working(case, feed.ref) as other:
        await other.write(events)
    points, _ = await case.ask(feed.ref)
    assert points == case.expected()


async def test_the_receipt_reads_what_the_tracker_holds(case: SinkCase) -> None:
    feed = Feed("r1", "contract")
    events = case.whole_run(feed)
    async with working(case, feed.ref) as worker:
        assert await worker.sink.contents(RunRef("contract", "nobody", "nobody")) is None
        await worker.write(events)
        contents = await worker.sink.contents(feed.ref)
    assert contents is not None
    assert contents.marks == marks_of(events)
