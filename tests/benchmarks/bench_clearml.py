"""Scalars per second from one sink of a worker into a stand-in of ClearML in another process.

The stand-in keeps one event per task, iteration, metric and variant, and checks nothing, so that it
is not what is measured. Beside the sink, bare ``events.add_batch`` calls of 500 ready-made lines
show what it takes at the most.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson

from bus.events import Event
from bus.kinds import Metrics, Number, Table
from subscribers.clearml.access import choose
from subscribers.clearml.api import Api
from subscribers.clearml.live import LiveSink
from tests.benchmarks.stage import KEYS, cpu_seconds
from tests.fixtures.clearml import app
from tests.fixtures.clearml.server import ClearmlServer
from tests.fixtures.clearml.store import Document, Store
from tests.fixtures.feed import Feed, marks_of
from tests.fixtures.processes import Processes, wait_until

ROWS = 300
"""Of one event, which with ten keys has about 64 KiB: as the shipper joins them."""

EVENTS = 60
"""Of one batch: 4 MiB, as the worker gives them."""

BATCHES = 2
RAW_CALLS = 200


def measure(folder: Path) -> dict[str, Any]:
    """Bare calls, the sink, bare calls."""
    processes = Processes(folder / "processes")
    there = folder / "environ.json"
    arguments = ("-m", "tests.benchmarks.bench_clearml", str(there))
    server = processes.python(*arguments, environ=dict(os.environ), name="stand-in")
    try:
        wait_until(there.exists, 30)
        environ = orjson.loads(there.read_bytes())
        before = _raw(environ)
        busy, own = cpu_seconds(server.pid), time.process_time()
        scalars, seconds = asyncio.run(_through_the_sink(environ))
        own = time.process_time() - own
        busy = cpu_seconds(server.pid) - busy
        after = _raw(environ)
    finally:
        processes.kill_all()
    return {
        "scalars_per_s": round(scalars / seconds),
        "raw_scalars_per_s": [round(before), round(after)],
        "sink_cpu_us_per_scalar": round(own / scalars * 1e6, 2),
        "stand_in_cpu_us_per_scalar": round(busy / scalars * 1e6, 2),
    }


async def _through_the_sink(environ: dict[str, str]) -> tuple[int, float]:
    access = choose(environ).access
    assert access is not None
    sink = LiveSink(access)
    feed = Feed("bench", "benchmarks")
    batches = [[_event(feed, b * EVENTS + n) for n in range(EVENTS)] for b in range(BATCHES)]
    try:
        await sink.write(feed.ref, [], marks_of())
        start = time.perf_counter()
        for number in range(BATCHES):
            await sink.write(feed.ref, batches[number], marks_of(*batches[: number + 1]))
        seconds = time.perf_counter() - start
        contents = await sink.contents(feed.ref)
    finally:
        await sink.close()
    scalars = BATCHES * EVENTS * ROWS * KEYS
    assert contents is not None
    assert contents.points == scalars
    return scalars, seconds


def _event(feed: Feed, number: int) -> Event:
    first = number * ROWS
    rows: list[list[Number]] = [
        [1767225600.0 + step / 10, step, *(step * 0.37 + key for key in range(KEYS))]
        for step in range(first, first + ROWS)
    ]
    keys = [f"train/metric{key}" for key in range(KEYS)]
    return feed.event("metrics", Metrics([Table(keys, rows)]))


def _raw(environ: dict[str, str]) -> float:
    access = choose(environ).access
    assert access is not None
    api = Api(access)
    project = str(api.call("projects.create", {"name": f"raw {time.time_ns()}"})["id"])
    body = {"name": "raw calls", "type": "training", "project": project}
    task = str(api.call("tasks.create", body)["id"])
    calls = [
        [
            orjson.dumps(
                {
                    "type": "training_stats_scalar",
                    "task": task,
                    "timestamp": 1767225600000 + call,
                    "iter": call * 50 + number // KEYS,
                    "metric": "train",
                    "variant": f"metric{number % KEYS}",
                    "value": number * 0.37,
                }
            )
            for number in range(500)
        ]
        for call in range(RAW_CALLS)
    ]
    start = time.perf_counter()
    for lines in calls:
        assert api.add_events(lines)["added"] == len(lines)
    seconds = time.perf_counter() - start
    api.close()
    return RAW_CALLS * 500 / seconds


def _keep(store: Store, events: Sequence[Document], _: object = None) -> Document:
    held: dict[Any, Document] = store.events.setdefault("training_stats_scalar", {})
    for event in events:
        held[event["task"], event["iter"], event["metric"], event["variant"]] = event
    return {"added": len(events), "errors": 0, "errors_info": {}}


def _serve(there: Path) -> None:
    """Be the stand-in, until killed; says in a file how to reach it."""
    server = ClearmlServer()
    # They would be kept for tests to look at.
    server.requests = _Nothing()
    server.start()
    part = there.with_suffix(".part")
    part.write_bytes(orjson.dumps({**server.environ, "CLEARML_CONFIG_FILE": str(there) + ".none"}))
    with patch.object(app, "add_batch", _keep):
        part.replace(there)
        while True:
            time.sleep(3600)


class _Nothing(list[Any]):
    def append(self, item: Any) -> None:
        pass


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
