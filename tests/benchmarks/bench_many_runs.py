"""Ten thousand short runs through one sink worker: whether it grows with the runs it has seen."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from bus.config import BrokerAddress
from bus.events import Event, encode
from bus.kinds import RunFinished, RunStarted
from bus.mqtt import open_link
from bus.source import Source
from bus.topics import Topics
from subscribers.worker.consumer import CROWDED_FORGET_SECONDS
from tests.benchmarks.stage import memory_mib, open_road, wait_working
from tests.faults.appending import AppendedRows, start_worker
from tests.fixtures.processes import wait_until

STAGES = (2_000, 5_000, 10_000)
WAVE = 500
"""Runs that are under way at once: memory goes with these, not with those that are over."""


def measure(folder: Path) -> dict[str, Any]:
    """MiB after 2,000, 5,000 and 10,000 runs."""
    with open_road(folder) as road:
        sink = AppendedRows(folder / "appended.db")
        road.worker("log")
        worker = start_worker(road, sink)
        wait_working(road, "log")
        wait_working(road, "appending")
        after: dict[str, float] = {}
        done = 0
        for stage in STAGES:
            while done < stage:
                asyncio.run(_publish(road.broker.address, range(done, done + WAVE)))
                done += WAVE
                _wait_rows(sink, done * 2)
            time.sleep(CROWDED_FORGET_SECONDS * 2)
            after[str(stage)] = memory_mib(worker.pid)
        return {"mib_after_runs": after}


async def _publish(address: BrokerAddress, numbers: range) -> None:
    topics = Topics()
    async with open_link(address, "many-runs") as link:
        for number in numbers:
            run = f"run{number}"
            source = str(Source(run, 0, f"1-{number:x}-{number:016x}", "node"))
            for id_, kind, data in (
                (1, "run_started", RunStarted()),
                (2, "run_finished", RunFinished(status="completed", last_id=2)),
            ):
                event = Event(kind, source, id_, run, "p", run, time.time(), data)
                await link.publish(topics.event("p", run, kind), encode(event))


def _wait_rows(sink: AppendedRows, count: int) -> None:
    wait_until(lambda: len(sink.rows()) >= count, 300, f"{count} rows")
