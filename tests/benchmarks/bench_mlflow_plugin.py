"""How long MLflow's own ``log_metric`` holds the training loop: on the bus, and without it.

Each place has a process of its own: ``trainbus:`` without a shipper, MLflow's file store, and
SQLite. Microseconds; ``ratio_to_file_store`` is of the medians. A program of its own, like
``bench_log_call``.

    python -m tests.benchmarks.bench_mlflow_plugin [--calls 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CHILD = """
import json, sys, time
import mlflow

calls = int(sys.argv[1])
mlflow.set_experiment("bench")
with mlflow.start_run() as run:
    taken = []
    for step in range(calls + 100):
        begun = time.perf_counter_ns()
        mlflow.log_metric("loss", step * 0.37, step=step)
        taken.append(time.perf_counter_ns() - begun)
    many = {f"m{number}": number / 3 for number in range(10)}
    ten = []
    for step in range(calls // 2):
        begun = time.perf_counter_ns()
        mlflow.log_metrics(many, step=step)
        ten.append(time.perf_counter_ns() - begun)
taken, ten = sorted(taken[100:]), sorted(ten)
print(json.dumps({
    "log_metric_p50": taken[len(taken) // 2] / 1000,
    "log_metric_p99": taken[len(taken) * 99 // 100] / 1000,
    "log_metrics_of_10_p50": ten[len(ten) // 2] / 1000,
}))
import os
sys.stdout.flush()
os._exit(0)  # nothing is delivered here: there is nothing to wait for
"""


def measure(uri: str, folder: Path, calls: int) -> dict[str, float]:
    """Run the calls in a process of their own."""
    environ = {
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TRAINBUS_HOME": str(folder / "home"),
        "TRAINBUS_SPOOL": str(folder / "spool"),
        "TRAINBUS_SHIPPER": "off",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(calls)],
        env=environ,
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure all three and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000, help="of log_metric, per place")
    calls = parser.parse_args().calls
    result: dict[str, Any] = {"unit": "microseconds", "calls": calls}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place, uri in (
            ("trainbus", "trainbus:"),
            ("file_store", (folder / "mlruns").as_uri()),
            ("sqlite", f"sqlite:///{folder / 'mlflow.db'}"),
        ):
            result[place] = measure(uri, folder, calls)
    for place in ("trainbus", "sqlite"):
        ratio = result[place]["log_metric_p50"] / result["file_store"]["log_metric_p50"]
        result[place]["ratio_to_file_store"] = ratio
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
