"""One, two and four workers on a sink that takes 20 ms a call, one call at a time per worker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.benchmarks.stage import open_road, wait_stored
from tests.faults.appending import AppendedRows
from tests.fixtures.processes import wait_until

RUNS = 64
EVENTS = 40
DELAY_SECONDS = 0.02
SHARDS = 32

WRITER = """
import sys, publishers
for number in range(int(sys.argv[1])):
    run = publishers.start_run(project="workers", run_id=f"run{number}")
    for step in range(int(sys.argv[2])):
        run.tags({"step": str(step)})
    run.finish(timeout=0)
"""


def measure(folder: Path) -> dict[str, Any]:
    """Events per second by number of workers, and the ratio to one worker."""
    rates = {count: _rate(folder / str(count), count) for count in (1, 2, 4)}
    return {
        "events_per_s": {str(count): round(rate, 1) for count, rate in rates.items()},
        "ratio_to_linear": {
            str(count): round(rate / rates[1] / count, 2) for count, rate in rates.items()
        },
    }


def _rate(folder: Path, count: int) -> float:
    folder.mkdir()
    with open_road(folder) as road:
        sink = AppendedRows(folder / "appended.db")
        arguments = ("-c", WRITER, str(RUNS), str(EVENTS))
        off = {**road.environ, "TRAINBUS_SHIPPER": "off"}
        assert road.processes.python(*arguments, environ=off).wait(120) == 0
        road.worker("log")
        road.processes.python("-m", "publishers.shipper", str(road.spool), environ=road.environ)
        wait_stored(road)
        environ = {
            **road.environ,
            **sink.environ,
            "APPENDING_SINK_DELAY": str(DELAY_SECONDS),
            "APPENDING_SINK_SERIAL": "2",
        }
        options = ("--shards", str(SHARDS), "--backfill", "--heartbeat", "0.5")
        for _ in range(count):
            road.processes.trainbus("worker", "appending", *options, environ=environ)
        total = RUNS * (EVENTS + 2)
        # Between a tenth and nine tenths: neither the start nor the last run's tail is compared.
        first = wait_until(lambda: _at_least(sink, total // 10), 120)
        start = time.perf_counter()
        last = wait_until(lambda: _at_least(sink, total * 9 // 10), 120)
        return (last - first) / (time.perf_counter() - start)


def _at_least(sink: AppendedRows, least: int) -> int:
    found = len(sink.rows())
    return found if found >= least else 0
