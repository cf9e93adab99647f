"""From a call of ``log()`` at ten calls a second to the log, and to MLflow (server, one worker)."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from bus.eventlog import EventLog, Selection
from bus.events import decode
from bus.kinds import Metrics
from tests.benchmarks.stage import open_road, percentile, wait_working, writer
from tests.fixtures.mlflow import MlflowServer

CALLS = 300
RATE = 10
LOOK_SECONDS = 0.002


class Watch(threading.Thread):
    """Notes when each value of a growing number was first seen in a database."""

    def __init__(self, database: Path, statement: str) -> None:
        super().__init__(daemon=True)
        self._database = database
        self._statement = statement
        self.seen: list[tuple[int, float]] = []
        self.is_over = threading.Event()

    def run(self) -> None:
        """Look again and again."""
        while not self.is_over.wait(LOOK_SECONDS):
            try:
                top = self._ask()
            except sqlite3.OperationalError:
                continue
            if top is not None and (not self.seen or top > self.seen[-1][0]):
                self.seen.append((top, time.time()))

    def _ask(self) -> int | None:
        connection = sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)
        try:
            found: int | None = connection.execute(self._statement).fetchone()[0]
            return found
        finally:
            connection.close()

    def time_of(self, value: int) -> float:
        """When a value, or a higher one, was first seen."""
        return next(at for top, at in self.seen if top >= value)


def measure(folder: Path) -> dict[str, Any]:
    """Milliseconds, of 300 calls."""
    server = MlflowServer(folder / "server")
    server.start()
    try:
        return _measure(folder, server)
    finally:
        server.kill()


def _measure(folder: Path, server: MlflowServer) -> dict[str, Any]:
    database = server.folder / "mlflow.db"
    with open_road(folder, server.uri, database) as road:
        road.worker("log")
        road.worker("mlflow")
        wait_working(road, "log")
        wait_working(road, "mlflow")
        in_log = Watch(folder / "log.db", "select max(id) from events")
        in_mlflow = Watch(database, "select max(step) from metrics where key='train/metric9'")
        in_log.start()
        in_mlflow.start()
        assert writer(road, "latency", CALLS, RATE).wait(120) == 0
        road.wait_ended("latency", "FINISHED")
        in_log.is_over.set()
        in_mlflow.is_over.set()
        logged, delivered = [], []
        log = EventLog.open(road.log_url)
        for event in log.select(
            Selection(run=road.run_id("latency"), kinds=frozenset({"metrics"}))
        ):
            data = decode(event.raw).data
            assert isinstance(data, Metrics)
            for row in data.tables[0].rows:
                logged.append((in_log.time_of(event.id) - float(row[0])) * 1000)
                delivered.append((in_mlflow.time_of(int(row[1])) - float(row[0])) * 1000)
        log.close()
        # The first seconds create the run.
        return {
            "to_log_ms": _figures(logged[RATE:]),
            "to_mlflow_ms": _figures(delivered[RATE * 2 :]),
        }


def _figures(values: list[float]) -> dict[str, float]:
    return {
        "p50": round(percentile(values, 0.5), 1),
        "p99": round(percentile(values, 0.99), 1),
        "max": round(max(values), 1),
    }
