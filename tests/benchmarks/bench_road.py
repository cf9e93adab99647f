"""A full spool through shipper, broker and log worker: calls per second, CPU per process.

A call is one ``log()`` of ten floats: ten metric points.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.benchmarks.stage import (
    KEYS,
    cpu_seconds,
    fill_spool,
    open_road,
    wait_stored,
    wait_working,
)

RUNS = 8
CALLS = 125_000


def measure(folder: Path) -> dict[str, Any]:
    """Ship a million calls, ten million points, of eight finished runs."""
    with open_road(folder) as road:
        calls = fill_spool(road, RUNS, CALLS)
        journal_bytes = sum(path.stat().st_size for path in road.spool.rglob("*.journal"))
        log = road.worker("log")
        wait_working(road, "log")
        broker = road.broker.pid
        assert broker is not None
        before = cpu_seconds(log.pid), cpu_seconds(broker)
        start = time.perf_counter()
        # The time the shipper takes to start is part of it.
        road.processes.python("-m", "publishers.shipper", str(road.spool), environ=road.environ)
        pid = road.shipper_pid()
        wait_stored(road)
        spent = time.perf_counter() - start
        log_bytes = (folder / "log.db").stat().st_size
        wal = folder / "log.db-wal"
        log_bytes += wal.stat().st_size if wal.exists() else 0
        return {
            "calls": calls,
            "calls_per_s": round(calls / spent),
            "points_per_s": round(calls * KEYS / spent),
            "seconds": round(spent, 2),
            "cpu_s_per_million_calls": {
                "shipper": round(cpu_seconds(pid) / calls * 1e6, 2),
                "broker": round((cpu_seconds(broker) - before[1]) / calls * 1e6, 2),
                "log_worker": round((cpu_seconds(log.pid) - before[0]) / calls * 1e6, 2),
            },
            "journal_bytes_per_call": round(journal_bytes / calls, 1),
            "log_bytes_per_call": round(log_bytes / calls, 1),
        }
