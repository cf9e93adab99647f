"""Workers of the appending sink, and what it holds: a row per event, so that a double shows."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bus.eventlog import EventLog
from tests.faults.road import Road
from tests.fixtures.processes import Process

__all__ = ["AppendedRows", "published", "start_worker"]

SINKS = str(Path(__file__).with_name("sinks"))


class AppendedRows:
    """What the appending sink holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def environ(self) -> dict[str, str]:
        """What makes the sink known to a command."""
        return {"PYTHONPATH": f"{Path.cwd()}:{SINKS}", "APPENDING_SINK_DB": str(self.path)}

    def rows(self) -> list[tuple[str, str, int, int]]:
        """Run, source, id and number of points of each, in the order of writing."""
        if not self.path.exists():
            return []
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=30)
        try:
            statement = "select run, source, id, points from rows order by number"
            return connection.execute(statement).fetchall()
        except sqlite3.OperationalError:
            return []
        finally:
            connection.close()

    def written(self) -> Counter[tuple[str, int]]:
        """How often each event is there, by source and id."""
        return Counter((source, number) for _, source, number, _ in self.rows())

    def firsts_since(self, moment: float) -> dict[str, float]:
        """When each run was first written to after a moment, all in Unix seconds."""
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=30)
        try:
            statement = "select run, min(at) from rows where at > ? group by run"
            return dict(connection.execute(statement, (moment,)).fetchall())
        finally:
            connection.close()


def start_worker(
    road: Road,
    sink: AppendedRows,
    *options: str,
    delay_seconds: float = 0.0,
    heartbeat_seconds: float = 0.3,
    environ: Mapping[str, str] | None = None,
) -> Process:
    """Start a worker of the appending sink."""
    settings = {
        **road.environ,
        **sink.environ,
        "APPENDING_SINK_DELAY": str(delay_seconds),
        **(environ or {}),
    }
    arguments = ("worker", "appending", "--heartbeat", str(heartbeat_seconds), "-v", *options)
    return road.processes.trainbus(*arguments, environ=settings)


def published(road: Road) -> Counter[tuple[str, int]]:
    """Every event the log holds, by source and id."""
    log = EventLog.open(road.log_url)
    try:
        return Counter(
            (state.source, number)
            for state in log.changed_since(0.0)
            for first, last in state.stored
            for number in range(first, last + 1)
        )
    finally:
        log.close()
