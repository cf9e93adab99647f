"""What the benchmarks share: a road in processes, writers, and readings of processes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bus.broker import EmbeddedBroker
from tests.faults.road import Road
from tests.fixtures.processes import Process, Processes, wait_until

__all__ = [
    "KEYS",
    "count_metrics",
    "cpu_seconds",
    "fill_spool",
    "memory_mib",
    "open_road",
    "peak_memory_mib",
    "percentile",
    "wait_stored",
    "wait_working",
    "writer",
]

KEYS = 10
WRITER = str(Path(__file__).with_name("writer.py"))
_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def open_road(folder: Path, tracking_uri: str = "", mlflow_db: Path = Path()) -> Iterator[Road]:
    """A road over Mosquitto with SQLite, and nothing running but the broker."""
    processes = Processes(folder / "processes")
    with EmbeddedBroker(folder / "broker", "mosquitto") as broker:
        road = Road(folder, broker, processes, tracking_uri=tracking_uri, mlflow_db=mlflow_db)
        try:
            yield road
        finally:
            processes.kill_all()
            road.close()


def writer(road: Road, run: str, calls: int, rate: float = 0, *, ships: bool = True) -> Process:
    """A training process that logs ten floats per call, ``rate`` calls a second (0: at once)."""
    environ = road.environ if ships else {**road.environ, "TRAINBUS_SHIPPER": "off"}
    arguments = (WRITER, road.run_id(run), str(calls), str(rate))
    return road.processes.python(*arguments, environ=environ, name=run)


def fill_spool(road: Road, runs: int, calls: int) -> int:
    """Leave journals of so many finished runs in the spool; returns the number of calls."""
    for number in range(runs):
        assert writer(road, f"run{number}", calls, ships=False).wait(120) == 0
    return runs * calls


def wait_working(road: Road, group: str, shards: int = 8) -> None:
    """Wait until a group's sessions stand."""
    road.wait_working(group, shards)


def wait_stored(road: Road, seconds: float = 120.0) -> None:
    """Wait until the spool is empty: everything is confirmed as stored."""
    wait_until(lambda: not any(road.spool.glob("sources/[!.]*")), seconds, "an empty spool")


def cpu_seconds(pid: int) -> float:
    """Processor seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_mib(pid: int) -> float:
    """Resident memory of a process, MiB."""
    return _status(pid, "VmRSS")


def peak_memory_mib(pid: int) -> float:
    """The most resident memory a process has had, MiB."""
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise AssertionError(f"no {name} of {pid}")


def percentile(values: list[float], share: float) -> float:
    """The value that a share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def count_metrics(database: Path) -> int:
    """Points in an MLflow database."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)
    try:
        return int(connection.execute("select count(*) from metrics").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()
