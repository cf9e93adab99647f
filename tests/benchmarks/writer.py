"""A process that logs ten floats per call: ``writer.py RUN CALLS RATE``; prints JSON at its end."""

from __future__ import annotations

import json
import os
import sys
import time

import publishers

KEYS = tuple(f"train/metric{number}" for number in range(10))


def main() -> None:
    """Log, then wait until it is stored."""
    run_id, calls, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    run = publishers.start_run(project="benchmark", run_id=run_id)
    taken = []
    start = due = time.perf_counter()
    for step in range(calls):
        if rate:
            due = start + step / rate
            while (left := due - time.perf_counter()) > 0:
                time.sleep(left)
        value = step * 0.37
        metrics = {key: value + 1.0 / (index + 3) for index, key in enumerate(KEYS)}
        began = time.perf_counter_ns()
        run.log(metrics, step=step)
        taken.append(time.perf_counter_ns() - began)
    spent = time.perf_counter() - start
    last_call = time.perf_counter()
    is_shipped = os.environ.get("TRAINBUS_SHIPPER") != "off"
    is_stored = run.finish(timeout=60.0 if is_shipped else 0.0)
    taken.sort()
    json.dump(
        {
            "calls_per_s": round(calls / spent),
            "p50_us": taken[len(taken) // 2] / 1000,
            "p99_us": taken[int(len(taken) * 0.99)] / 1000,
            "max_us": taken[-1] / 1000,
            "is_stored": is_stored,
            "stored_after_s": round(time.perf_counter() - last_call, 3),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
