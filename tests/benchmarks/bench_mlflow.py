"""Points per second into an MLflow server, beside raw ``log_batch`` of 1000 in the same run.

The server runs with one worker (see docs/benchmarks.md for why) on SQLite. Raw calls come before
and after, and the ratio is to their mean.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from tests.benchmarks.stage import KEYS, count_metrics, fill_spool, open_road, wait_working
from tests.fixtures.mlflow import MlflowServer
from tests.fixtures.processes import wait_until

RAW_POINTS = 20_000
RUNS = 1
CALLS = 3_000


def measure(folder: Path) -> dict[str, Any]:
    """Raw, through the bus, raw."""
    server = MlflowServer(folder / "server")
    server.start()
    try:
        before = _raw(server, "before")
        bus = _through_the_bus(folder, server)
        after = _raw(server, "after")
    finally:
        server.kill()
    return {
        "ratio": round(bus / ((before + after) / 2), 3),
        "bus_points_per_s": round(bus),
        "raw_points_per_s": [round(before), round(after)],
    }


def _raw(server: MlflowServer, name: str) -> float:
    with patch.dict(os.environ, {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}):
        client = MlflowClient(server.uri)
        run = client.create_run(client.create_experiment(name)).info.run_id
        start = time.perf_counter()
        now = int(time.time() * 1000)
        for first in range(0, RAW_POINTS, 1000):
            steps = range(first // 10, first // 10 + 100)
            metrics = [
                Metric(f"train/metric{key}", step * 0.37, now + step, step)
                for step in steps
                for key in range(10)
            ]
            client.log_batch(run, metrics)
        return RAW_POINTS / (time.perf_counter() - start)


def _through_the_bus(folder: Path, server: MlflowServer) -> float:
    database = server.folder / "mlflow.db"
    there = count_metrics(database)
    with open_road(folder, server.uri, database) as road:
        points = fill_spool(road, RUNS, CALLS) * KEYS
        road.worker("log")
        road.worker("mlflow")
        wait_working(road, "log")
        wait_working(road, "mlflow")
        road.processes.python("-m", "publishers.shipper", str(road.spool), environ=road.environ)
        # From the first full call on: creating the run is not what is compared.
        first = wait_until(lambda: count_metrics(database) - there, 60)
        start = time.perf_counter()
        wait_until(lambda: count_metrics(database) - there >= points, 300)
        return (points - first) / (time.perf_counter() - start)
