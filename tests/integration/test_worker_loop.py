"""Whole workers on this event loop, under the watch of the fixture that forbids blocking calls.

A log worker and a sink worker over a real broker and a real database: whatever they do on the loop
that waits for a disk, a lock or a socket fails the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.broker import EmbeddedBroker
from bus.config import Settings
from bus.eventlog import EventLog, Selection
from bus.idranges import IdRanges
from bus.mqtt import Delivery, open_link
from bus.stored import decode_stored
from bus.topics import Topics
from subscribers.worker.main import run_worker
from subscribers.worker.options import WorkerOptions
from tests.fixtures.processes import until
from tests.fixtures.roadparts import RUN, SOURCE, event_bytes
from tests.fixtures.roadsinks import MemorySink

TOPICS = Topics()
BEAT_SECONDS = 0.1


class Workers:
    """Workers of this process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stop = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, sink: str) -> None:
        options = WorkerOptions(sink, 2, heartbeat_seconds=BEAT_SECONDS)
        work = run_worker(options, self.settings, {}, self.stop)
        self.tasks.append(asyncio.create_task(work))

    async def end(self) -> None:
        """Ask all to end, and see that they do and without an error."""
        self.stop.set()
        await asyncio.wait_for(asyncio.gather(*self.tasks), 20)
        self.tasks.clear()


@pytest.fixture
async def workers(mosquitto: EmbeddedBroker, tmp_path: Path) -> AsyncIterator[Workers]:
    """No workers yet, and where they would work."""
    environ = {"TRAINBUS_HOME": str(tmp_path), "TRAINBUS_BROKER": str(mosquitto.address)}
    made = Workers(Settings.from_environment(environ))
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


async def test_nothing_of_a_worker_blocks_the_event_loop(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sink = MemorySink()
    monkeypatch.setattr("subscribers.worker.main.load_sink", lambda *_: sink)
    stored = IdRanges()

    def note(delivery: Delivery) -> None:
        stored.update(decode_stored(delivery.payload).get(SOURCE, []))
        delivery.ack()

    workers.start("log")
    workers.start("memory")
    async with open_link(workers.settings.broker, "shipper", on_delivery=note) as link:
        await link.subscribe([TOPICS.stored_filter])
        # Again and again until the sessions stand, as a shipper does; and an event that is none.
        number = 0
        while len(stored) < 40:
            number = number % 40 + 1
            await link.publish(TOPICS.event("digits", RUN, "tags"), event_bytes(number))
            await asyncio.sleep(0.01)
        await link.publish(TOPICS.event("digits", RUN, "tags"), b"no event")
        await until(lambda: sink.ids(SOURCE) == list(range(1, 41)))
    await workers.end()
    assert sink.ids(SOURCE) == list(range(1, 41))
    assert not [one for one in caplog.records if one.exc_info]
    assert workers.settings.log is not None
    log = await asyncio.to_thread(EventLog.open, workers.settings.log)
    assert [event.id for event in log.select(Selection(run=RUN))] == list(range(1, 41))
    log.close()


async def test_a_sink_worker_that_starts_late_reads_the_log_without_blocking(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = MemorySink()
    monkeypatch.setattr("subscribers.worker.main.load_sink", lambda *_: sink)
    workers.start("log")
    async with open_link(workers.settings.broker, "shipper") as link:
        log = await asyncio.to_thread(EventLog.open, str(workers.settings.log))
        while not log.runs():
            await link.publish(TOPICS.event("digits", RUN, "tags"), event_bytes(1))
            await asyncio.sleep(0.05)
        for number in range(2, 30):
            await link.publish(TOPICS.event("digits", RUN, "tags"), event_bytes(number))
        workers.start("memory")
        await until(lambda: sink.ids(SOURCE) == list(range(1, 30)), 20)
        log.close()
    await workers.end()
