"""A thousand models at once in HUB's stand-in, through one worker, at HUB's own limits.

Every run sends an epoch a second, more than the three seconds of HUB let through, and weights of
its own at the beginning and the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.request
from pathlib import Path
from typing import Any

from bus.artifacts import ArtifactStore
from bus.config import BrokerAddress
from bus.events import Event, encode
from bus.kinds import Blob, Checkpoint, KindData, Metrics, Params, RunFinished, RunStarted, Table
from bus.mqtt import Link, open_link
from bus.source import Source
from bus.topics import Topics
from tests.benchmarks.stage import cpu_seconds, open_road, peak_memory_mib, wait_working
from tests.fixtures.hub import KEY
from tests.fixtures.hubprocess import HubProcess
from tests.fixtures.processes import wait_until

RUNS = 1000
EPOCHS = 12
KEYS = 10
WEIGHTS_BYTES = 256 * 1024


def measure(folder: Path) -> dict[str, Any]:
    """Seconds until all is there, MiB at the most, and requests that came too soon."""
    server = HubProcess(folder / "hub", has_folder=False)
    server.start()
    try:
        with open_road(folder) as road:
            service = {"HUB_API_KEY": KEY, "ULTRALYTICS_HUB_API": server.url}
            road.worker("log")
            worker = road.processes.trainbus("worker", "hub", environ={**road.environ, **service})
            wait_working(road, "log")
            wait_working(road, "hub")
            began = time.monotonic()
            asyncio.run(_publish(road.broker.address, _weights(folder)))
            published = time.monotonic() - began
            models = wait_until(lambda: _all_there(server), 600, "all models trained")
            return {
                "models": len(models),
                "published_s": round(published, 1),
                "all_there_s": round(time.monotonic() - began, 1),
                "peak_mib": peak_memory_mib(worker.pid),
                "cpu_s": cpu_seconds(worker.pid),
                "too_soon": sum(sum(one["too_soon"].values()) for one in models),
                "heartbeats": sum(one["heartbeats"] for one in models),
                "uploads": sum(len(one["uploads"]) for one in models),
            }
    finally:
        server.kill()


def _weights(folder: Path) -> tuple[Blob, str]:
    path = folder / "last.pt"
    path.write_bytes(os.urandom(WEIGHTS_BYTES))
    stored = ArtifactStore((folder / "store").as_uri()).put_file(path)
    return Blob(path.name, stored.size, stored.sha256), stored.url


def _all_there(server: HubProcess) -> list[dict[str, Any]]:
    time.sleep(2.0)  # each look costs the stand-in some tenths of a second
    with urllib.request.urlopen(server.url, timeout=60) as answer:
        models: list[dict[str, Any]] = json.load(answer)["models"]
    is_done = len(models) == RUNS and all(
        one["status"] == "trained" and len(one["metrics"]) == EPOCHS for one in models
    )
    return models if is_done else []


async def _publish(address: BrokerAddress, weights: tuple[Blob, str]) -> None:
    blob, dataref = weights
    async with open_link(address, "many-models") as link:
        await _send_all(link, 1, "run_started", RunStarted())
        await _send_all(link, 2, "params", Params("General", {"epochs": EPOCHS, "batch": 8}))
        await _send_all(link, 3, "checkpoint", Checkpoint(blob, epoch=0), dataref)
        for epoch in range(EPOCHS):
            began = time.monotonic()
            keys = [f"train/metric{number}" for number in range(KEYS)]
            table = Table(keys, [[time.time(), epoch, *(0.37 * epoch for _ in keys)]])
            await _send_all(link, 4 + epoch, "metrics", Metrics([table]))
            await asyncio.sleep(max(began + 1.0 - time.monotonic(), 0.0))
        last = 4 + EPOCHS
        await _send_all(link, last, "checkpoint", Checkpoint(blob, EPOCHS, is_final=True), dataref)
        finished = RunFinished(status="completed", last_id=last + 1)
        await _send_all(link, last + 1, "run_finished", finished)


async def _send_all(
    link: Link, id_: int, kind: str, data: KindData, dataref: str | None = None
) -> None:
    """One event of every run."""
    topics = Topics()
    for number in range(RUNS):
        run = f"run{number}"
        source = str(Source(run, 0, f"1-{number:x}-{number:016x}", "node"))
        event = Event(kind, source, id_, run, "p", run, time.time(), data, dataref)
        await link.publish(topics.event("p", run, kind), encode(event))
