"""The look of a sink worker for changed runs, with 100,000 finished runs in the log."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

from bus.eventlog import EventLog, LogRecord

RUNS = 100_000
BATCH = 5_000
LOOKS = 200


def measure(folder: Path) -> dict[str, Any]:
    """Milliseconds of a look when nothing has changed, and when ten runs have."""
    log = EventLog.open(f"sqlite:///{folder / 'log.db'}")
    start = time.time() - RUNS
    for first in range(0, RUNS, BATCH):
        # A run a second, and the log's clock with it.
        log.append([_record(n) for n in range(first, first + BATCH)], start + first)
    quiet = _look(log, time.time() + 3600)
    now = time.time()
    log.append([_record(RUNS + n) for n in range(10)], now)
    busy = _look(log, now - 60)
    log.close()
    return {"runs": RUNS, "nothing_changed_ms": quiet, "ten_changed_ms": busy}


def _look(log: EventLog, since: float) -> float:
    taken = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        log.changed_since(since)
        taken.append((time.perf_counter() - began) * 1000)
    return round(median(taken), 3)


def _record(number: int) -> LogRecord:
    source = f"/runs/run{number}/0/1-{number:x}-{number:016x}/node"
    raw = b'{"run":%d}' % number
    return LogRecord(source, 1, f"run{number}", "p", "run", "run_finished", float(number), raw)
