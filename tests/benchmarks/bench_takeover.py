"""A worker is killed: how long until another writes for each of its runs, on both brokers."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from bus.broker import EmbeddedBroker
from tests.faults.appending import AppendedRows, start_worker
from tests.faults.road import Road
from tests.fixtures.processes import Processes, wait_until

RUNS = 16


def measure(folder: Path) -> dict[str, Any]:
    """Seconds from SIGKILL, the slowest run of the dead worker; heartbeats as by default."""
    return {engine: _measure(folder / engine, engine) for engine in ("mosquitto", "nats")}


def _measure(folder: Path, engine: str) -> dict[str, Any]:
    folder.mkdir()
    processes = Processes(folder / "processes")
    with EmbeddedBroker(folder / "broker", engine) as broker:  # type: ignore[arg-type]  # a name
        road = Road(folder, broker, processes)
        sink = AppendedRows(folder / "appended.db")
        try:
            processes.trainbus("worker", "log", environ=road.environ)
            workers = [start_worker(road, sink, heartbeat_seconds=1.0) for _ in range(2)]
            for number in range(RUNS):
                road.trainer(f"run{number}", "--steps", "3000", "--pace", "0.01")
            wait_until(lambda: len({run for run, *_ in sink.rows()}) == RUNS, 60, "all runs")
            time.sleep(5.0)
            killed = time.time()
            workers[0].kill()
            wait_until(lambda: _first_after(sink.path, killed, RUNS), 60, "all runs again")
            firsts = _first_after(sink.path, killed, RUNS)
            return {"slowest_run_s": round(max(firsts) - killed, 2)}
        finally:
            processes.kill_all()
            road.close()


def _first_after(path: Path, moment: float, runs: int) -> list[float]:
    """When each run was first written after a moment; empty until all were."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    try:
        statement = "select min(at) from rows where at > ? group by run"
        found = [row[0] for row in connection.execute(statement, (moment,))]
        return found if len(found) == runs else []
    finally:
        connection.close()
