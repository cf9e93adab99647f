"""The broker is killed and its data deleted: how long after its return everything is stored."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.benchmarks.stage import open_road, wait_stored, wait_working, writer
from tests.faults.road import Road
from tests.fixtures.processes import wait_until

WRITERS = 4
RATE = 1000
SECONDS = 4


def measure(folder: Path) -> dict[str, Any]:
    """Seconds from the broker's return, with 4,000 calls a second until it was killed."""
    with open_road(folder) as road:
        road.worker("log")
        wait_working(road, "log")
        calls = RATE * SECONDS
        for number in range(WRITERS):
            writer(road, f"wiped{number}", calls, RATE)
        wait_until(lambda: any(road.spool.glob("sources/[!.]*")), 30)
        time.sleep(SECONDS / 2)
        road.broker.kill()
        road.broker.wipe()
        # They end in finish(), which waits for the log; the logging is over before.
        for number in range(WRITERS):
            wait_until(lambda run=f"wiped{number}": _has_ended(road, run), 60)  # type: ignore[misc]  # bound at once
        start = time.perf_counter()
        road.broker.start()
        returned = time.perf_counter()
        wait_stored(road)
        return {
            "calls": WRITERS * calls,
            "broker_start_s": round(returned - start, 2),
            "stored_after_return_s": round(time.perf_counter() - returned, 2),
        }


def _has_ended(road: Road, run: str) -> bool:
    """The journal of a run holds its end."""
    for path in road.spool.glob("sources/[!.]*/*.journal"):
        text = path.read_bytes()
        if f'"run":"{road.run_id(run)}"'.encode() in text[:2000]:
            return b'"kind":"run_finished"' in text[-2000:]
    return False
