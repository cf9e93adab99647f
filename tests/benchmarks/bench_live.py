"""Eight processes that make 100,000 calls a second together, everything on the same cores."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.stage import open_road, wait_working, writer

WRITERS = 8
RATE = 100_000 / WRITERS
SECONDS = 5


def measure(folder: Path) -> dict[str, Any]:
    """How the calls fare, and how long after the last one everything is stored."""
    with open_road(folder) as road:
        road.worker("log")
        wait_working(road, "log")
        calls = int(RATE * SECONDS)
        writers = [writer(road, f"live{number}", calls, RATE) for number in range(WRITERS)]
        said = []
        for process in writers:
            assert process.wait(120) == 0
            said.append(json.loads(process.stdout))
        assert all(one["is_stored"] for one in said)
        return {
            "calls_per_s": sum(one["calls_per_s"] for one in said),
            "log_call_p50_us": median(one["p50_us"] for one in said),
            "log_call_p99_us": median(one["p99_us"] for one in said),
            "stored_after_last_call_s": max(one["stored_after_s"] for one in said),
        }
