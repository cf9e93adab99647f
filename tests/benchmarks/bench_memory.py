"""A sink worker whose tracker hangs, with a million calls waiting: how much it grows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.benchmarks.stage import (
    fill_spool,
    memory_mib,
    open_road,
    peak_memory_mib,
    wait_stored,
    wait_working,
)
from tests.fixtures.mlflow import MlflowServer

RUNS = 8
CALLS = 125_000
SETTLE_SECONDS = 10.0


def measure(folder: Path) -> dict[str, Any]:
    """MiB before, and at the most while everything waits."""
    server = MlflowServer(folder / "server")
    server.start()
    try:
        with open_road(folder, server.uri, server.folder / "mlflow.db") as road:
            road.worker("log")
            sink = road.worker("mlflow")
            wait_working(road, "log")
            wait_working(road, "mlflow")
            # One run that arrives: the base is a worker that has worked.
            assert road.trainer("warm", "--steps", "100").wait(60) == 0
            road.wait_ended("warm", "FINISHED")
            base = memory_mib(sink.pid)
            server.pause()
            calls = fill_spool(road, RUNS, CALLS)
            road.processes.python("-m", "publishers.shipper", str(road.spool), environ=road.environ)
            wait_stored(road)
            time.sleep(SETTLE_SECONDS)
            return {
                "calls_waiting": calls,
                "base_mib": base,
                "peak_over_base_mib": round(peak_memory_mib(sink.pid) - base, 1),
            }
    finally:
        server.kill()
