"""The whole road in processes of its own, for tests that break it and count what arrived."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bus.broker import EmbeddedBroker
from bus.eventlog import EventLog, Selection
from bus.events import decode
from bus.kinds import Metrics
from tests.fixtures.processes import (
    Process,
    Processes,
    end_shippers,
    shippers_below,
    wait_until,
)

__all__ = ["Point", "Road"]

Point = tuple[str, int, float]
"""Key, step, value."""

TRAINER = str(Path(__file__).with_name("trainer.py"))


@dataclass
class Road:
    """Broker, workers and trainers of one test.

    Attributes:
        tracking_uri: MLflow's; by default a SQLite database that the worker opens itself.
        mlflow_db: Where the test looks what MLflow really holds.
        suffix: Ends the id of every run: tests share a server.
    """

    folder: Path
    broker: EmbeddedBroker
    processes: Processes
    log_url: str = ""
    tracking_uri: str = ""
    mlflow_db: Path = field(default=Path())
    suffix: str = field(default_factory=lambda: secrets.token_hex(4))

    def __post_init__(self) -> None:
        self.log_url = self.log_url or f"sqlite:///{self.folder / 'log.db'}"
        if not self.tracking_uri:
            self.mlflow_db = self.folder / "mlflow.db"
            self.tracking_uri = f"sqlite:///{self.mlflow_db}"

    @property
    def environ(self) -> dict[str, str]:
        """The settings of every process of the road."""
        return {
            "TRAINBUS_HOME": str(self.folder),
            "TRAINBUS_SPOOL": str(self.spool),
            "TRAINBUS_BROKER": str(self.broker.address),
            "TRAINBUS_LOG": self.log_url,
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "PYTHONPATH": str(Path.cwd()),
        }

    @property
    def spool(self) -> Path:
        """Where the trainers' journals are."""
        return self.folder / "spool"

    def worker(self, sink: str, *options: str) -> Process:
        """Start one member of a group; its heartbeat is quick, so that tests are."""
        return self.processes.trainbus(
            "worker", sink, "--heartbeat", "0.3", "-v", *options, environ=self.environ
        )

    def wait_working(self, group: str, shards: int = 8) -> None:
        """Wait until the broker knows all sessions of a group. Mosquitto only: it says so."""

        def is_open() -> bool:
            log = self.broker.log_file.read_text(errors="replace")
            sessions = [f" as trainbus-v1-{group}-{shard} " for shard in range(shards)]
            return all(session in log for session in sessions)

        wait_until(is_open, 60, f"sessions of {group}")

    def trainer(self, run: str, *options: str, environ: Mapping[str, str] | None = None) -> Process:
        """Start a training process."""
        arguments = (TRAINER, self.run_id(run), str(self.truth_file(run)), *options)
        settings = {**self.environ, **(environ or {})}
        return self.processes.python(*arguments, environ=settings, name=run)

    def run_id(self, run: str) -> str:
        """The id of a run, by the name it has in the test."""
        return f"{run}-{self.suffix}"

    def truth_file(self, run: str) -> Path:
        """What the trainer of a run wrote down."""
        return self.folder / f"{run}.truth"

    def truth(self, run: str) -> Counter[Point]:
        """The points that the trainer of a run logged."""
        lines = self.truth_file(run).read_text().splitlines()
        return Counter((key, step, value) for key, step, value in map(json.loads, lines))

    def in_log(self, run: str) -> Counter[Point]:
        """The points of a run that the event log holds."""
        log = EventLog.open(self.log_url)
        found: Counter[Point] = Counter()
        try:
            for logged in log.select(Selection(run=self.run_id(run), kinds=frozenset({"metrics"}))):
                data = decode(logged.raw).data
                assert isinstance(data, Metrics)
                for table in data.tables:
                    for _, step, *values in table.rows:
                        for key, value in zip(table.keys, values, strict=True):
                            found[key, int(step), float(value)] += 1
        finally:
            log.close()
        return found

    def in_mlflow(self, run: str) -> Counter[Point]:
        """The points of a run that MLflow's database holds."""
        statement = (
            "select m.key, m.step, m.value from metrics m join tags t using (run_uuid) "
            "where t.key = 'trainbus.run_id' and t.value = ?"
        )
        return Counter(
            (str(key), int(step), float(value))
            for key, step, value in self._ask(statement, self.run_id(run))
        )

    def status_in_mlflow(self, run: str) -> str:
        """The status of a run in MLflow; empty when there is none."""
        statement = (
            "select r.status from runs r join tags t using (run_uuid) "
            "where t.key = 'trainbus.run_id' and t.value = ?"
        )
        found = self._ask(statement, self.run_id(run))
        assert len(found) <= 1, "MLflow has the run more than once"
        return str(found[0][0]) if found else ""

    def wait_arrived(self, run: str, seconds: float = 30.0) -> None:
        """Wait until the log and MLflow hold what was logged, and check that it is there once."""
        truth = self.truth(run)
        wait_until(
            lambda: self.in_log(run) == truth,
            seconds,
            f"log: {self._difference(truth, self.in_log(run))}",
        )
        wait_until(
            lambda: self.in_mlflow(run).keys() >= truth.keys(),
            seconds,
            f"MLflow: {self._difference(truth, self.in_mlflow(run))}",
        )
        assert self.in_mlflow(run) == truth
        assert set(truth.values()) == {1}

    def wait_ended(self, run: str, status: str, seconds: float = 30.0) -> None:
        """Wait until MLflow shows the run with a status."""
        wait_until(lambda: self.status_in_mlflow(run) == status, seconds, f"{run} {status}")

    def shipper_pid(self) -> int:
        """The shipper of this road's spool, once there is one."""
        return wait_until(self.find_shipper, 10.0, "a shipper")

    def kill_shipper(self) -> None:
        """SIGKILL for the shipper."""
        os.kill(self.shipper_pid(), signal.SIGKILL)

    def close(self) -> None:
        """End the shipper."""
        end_shippers(self.spool)

    def find_shipper(self) -> int:
        """Its process id; 0 when there is none."""
        return next(iter(shippers_below(self.spool)), 0)

    def _ask(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        if not self.mlflow_db.exists():
            return []
        connection = sqlite3.connect(f"file:{self.mlflow_db}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(statement, values).fetchall()
        except sqlite3.OperationalError:
            return []
        finally:
            connection.close()

    @staticmethod
    def _difference(truth: Counter[Point], found: Counter[Point]) -> str:
        missing, doubled = truth - found, found - truth
        return f"{len(missing)} missing {list(missing)[:3]}, {len(doubled)} too many"
