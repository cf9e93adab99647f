"""How long ``run.log()`` of ten floats holds the training loop, as JSON.

In a tight loop, and paced at 1,000 and 100 calls per second, where caches are cold at each call:
"idle" sleeps in between, so that the processor is woken from rest, which costs by itself (see
"nothing", a call that does nothing); "busy" works through 2 MB again and again, as training does.
Microseconds.

    python -m tests.benchmarks.bench_log_call [--seconds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from unittest.mock import patch

import publishers

_LOOP_CALLS = 300_000
_WARM_CALLS = 1_000
_METRICS = {f"train/metric{number}": 1.0 / (number + 3) for number in range(10)}


def nothing(metrics: dict[str, float], step: int) -> None:
    """What a call costs that does nothing."""


def rest(due: float) -> None:
    """Sleep until a time."""
    time.sleep(max(0.0, due - time.perf_counter()))


def work(due: float, data: bytearray = bytearray(2 * 1024 * 1024)) -> None:  # noqa: B008  # scratch
    """Work through memory until a time."""
    while time.perf_counter() < due:
        data.count(1)


def measure(
    log: Callable[[dict[str, float], int], None],
    calls: int,
    pause: float = 0.0,
    spend: Callable[[float], None] = rest,
) -> list[int]:
    """Nanoseconds of each call, sorted."""
    clock = time.perf_counter_ns
    metrics = dict(_METRICS)
    taken = []
    due = time.perf_counter()
    for step in range(calls):
        if pause:
            due += pause
            spend(due)
        # As in training, the values are new each time.
        metrics["train/metric0"] = step * 0.37
        start = clock()
        log(metrics, step)
        taken.append(clock() - start)
    return sorted(taken)


def percentiles(taken: list[int]) -> dict[str, float]:
    """The figures of one way of calling, in microseconds."""

    def at(share: float) -> float:
        return round(taken[min(len(taken) - 1, int(len(taken) * share))] / 1000, 2)

    return {
        "calls": len(taken),
        "p50_us": at(0.5),
        "p99_us": at(0.99),
        "p99.9_us": at(0.999),
        "max_us": at(1.0),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each paced measurement")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as spool:
        # No shipper: what is measured is the call, not what runs beside it.
        environ = {"TRAINBUS_SPOOL": spool, "TRAINBUS_SHIPPER": "off"}
        with patch.dict(os.environ, environ):
            run = publishers.start_run("benchmark")
        measure(run.log, _WARM_CALLS)
        result: dict[str, object] = {
            "benchmark": "log_call",
            "metrics_per_call": len(_METRICS),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "tight_loop": percentiles(measure(run.log, _LOOP_CALLS)),
        }
        for rate in (1000, 100):
            calls = int(rate * seconds)
            for name, spend in (("busy", work), ("idle", rest)):
                taken = measure(run.log, calls, 1 / rate, spend)
                result[f"paced_{rate}_per_s_{name}"] = percentiles(taken)
        idle = measure(nothing, int(100 * seconds), 0.01)
        result["nothing_100_per_s_idle"] = percentiles(idle)
        if run.dropped:
            raise SystemExit(f"dropped: {run.dropped}")
        run.finish(timeout=0.0)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
