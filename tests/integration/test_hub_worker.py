"""The hub sink behind the worker's own pump, with limits and failures of HUB."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bus.eventlog.aio import AsyncEventLog
from bus.events import Event, encode
from bus.feed import Item
from bus.ratelimit import Rate, RateLimits
from bus.sinks import RunRef, Sink
from subscribers.worker.gate import SinkGate
from subscribers.worker.pump import RunPump
from subscribers.worker.writer import WriterStats
from tests.fixtures.feed import Feed, marks_of
from tests.fixtures.hub import HubServer, begin, checkpoint, hold_in_log, make_hub_sink
from tests.fixtures.processes import until
from tests.fixtures.roadsinks import MemoryLetters

LIMITS = RateLimits(kinds={"metrics": Rate(4.0, 1)})


class Worker:
    """What a worker has of one run."""

    def __init__(
        self, sink: Sink, run: RunRef, log: AsyncEventLog, limits: RateLimits | None = None
    ) -> None:
        self.letters = MemoryLetters()
        self.stats = WriterStats()
        gate = SinkGate(limits) if limits else None
        self.pump = RunPump(run, sink, log, self.letters, self.stats, gate=gate)

    def offer(self, events: Sequence[Event]) -> None:
        now = asyncio.get_running_loop().time()
        for event in events:
            item = Item(event.source, event.id, event.kind, encode(event), None, now)
            self.pump.feed.offer(item)
        self.pump.wake()

    async def finish(self) -> None:
        await until(lambda: self.pump.feed.is_quiet() and not self.pump.is_running, 30)


@asynccontextmanager
async def working(
    server: HubServer, home: Path, run: RunRef, limits: RateLimits | None = None
) -> AsyncIterator[Worker]:
    sink = make_hub_sink(server, home)
    log = await AsyncEventLog.open(f"sqlite:///{home / 'log.db'}")
    worker = Worker(sink, run, log, limits)
    try:
        yield worker
    finally:
        await worker.pump.stop(1.0)
        await sink.close()
        await log.close()


async def test_metrics_that_failed_are_kept_and_the_next_go_together(
    hub_server: HubServer, tmp_path: Path
) -> None:
    feed = Feed("r1", "digits")
    start = begin(feed)
    fault = hub_server.fail("metrics", status=503)
    async with working(hub_server, tmp_path, feed.ref, LIMITS) as worker:
        epochs = [feed.metrics(["loss"], range(epoch, epoch + 1)) for epoch in range(30)]
        events = [*start, *epochs, feed.finished()]
        # What waits for a token is read from the log again.
        await hold_in_log(tmp_path, *events)
        worker.offer(events[:4])
        await until(lambda: fault.hits >= 1, what="a try that fails")
        worker.offer(events[4:])
        await until(lambda: fault.hits >= 2, what="another")
        hub_server.stand_in.faults.clear()
        await worker.finish()
        assert worker.letters.kept == []
    (model,) = hub_server.models
    assert model.metrics == {str(n): {"loss": n + 0.5} for n in range(30)}
    done = [one for one in hub_server.received("metrics") if one.status == 200]
    assert len(done) <= 2


async def test_a_storm_of_429_is_waited_out_by_the_pauses_it_asks_for(
    hub_server: HubServer, tmp_path: Path
) -> None:
    feed = Feed("r1", "digits")
    fault = hub_server.fail("*", status=429, headers={"Retry-After": "0.3"}, times=5)
    async with working(hub_server, tmp_path, feed.ref) as worker:
        began = asyncio.get_running_loop().time()
        worker.offer([*begin(feed), feed.metrics(["loss"], range(3)), feed.finished()])
        await worker.finish()
        assert asyncio.get_running_loop().time() - began >= 5 * 0.3
        assert worker.letters.kept == []
    assert fault.hits == 5
    (model,) = hub_server.models
    assert len(model.metrics) == 3


async def test_the_best_weights_of_a_batch_are_not_the_ones_left_out(
    hub_server: HubServer, tmp_path: Path
) -> None:
    feed = Feed("r1", "digits")
    start = begin(feed)
    weights = [
        checkpoint(feed, tmp_path, f"{n}".encode(), epoch=n, is_best=n == 3) for n in range(6)
    ]
    async with working(hub_server, tmp_path, feed.ref) as worker:
        worker.offer([*start, *weights, feed.finished("failed")])
        await worker.finish()
    (model,) = hub_server.models
    assert [(one["epoch"], one["isBest"]) for one in model.uploads] == [(3, True), (5, False)]


async def test_an_event_that_hub_refuses_is_a_dead_letter_and_may_be_retried(
    hub_server: HubServer, tmp_path: Path
) -> None:
    feed = Feed("r1", "digits")
    fault = hub_server.fail("upload", status=413)
    events = [*begin(feed), feed.metrics(["loss"], range(1))]
    poison = checkpoint(feed, tmp_path, epoch=0)
    rest = [feed.metrics(["loss"], range(1, 2))]
    async with working(hub_server, tmp_path, feed.ref) as worker:
        worker.offer([*events, poison, *rest])
        await worker.finish()
        assert worker.letters.kept == [poison.id]
        assert fault.hits >= 1
        hub_server.stand_in.faults.clear()
        sink = make_hub_sink(hub_server, tmp_path)
        marks = await sink.open_run(feed.ref)
        assert marks == marks_of(events, [poison], rest, dead=[poison])
        marks.revive(poison.source, poison.id)
        await sink.write(feed.ref, [poison], marks)
        await sink.close()
    (model,) = hub_server.models
    assert len(model.metrics) == 2
    assert [one["epoch"] for one in model.uploads] == [0]
