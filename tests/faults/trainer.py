"""A training process for fault tests: writes down what it logs before it logs it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time

import publishers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("truth", help="file that gets a line for each point, before it is logged")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between two calls")
    parser.add_argument("--keys", type=int, default=2)
    parser.add_argument("--kill-at", type=int, default=-1, help="SIGKILL right after this step")
    parser.add_argument("--clash-at", type=int, default=-1, help="change a parameter at this step")
    parser.add_argument("--timeout", type=float, default=10.0)
    arguments = parser.parse_args()
    truth = os.open(arguments.truth, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    run = publishers.start_run(project="faults", name="fault", run_id=arguments.run)
    run.params({"lr": 0.1})
    slowest = 0.0
    for step in range(arguments.steps):
        metrics = {f"m{key}": step + key / 1000 for key in range(arguments.keys)}
        lines = "".join(f"{json.dumps([key, step, value])}\n" for key, value in metrics.items())
        os.write(truth, lines.encode())
        began = time.perf_counter()
        run.log(metrics, step=step)
        slowest = max(slowest, time.perf_counter() - began)
        if step == arguments.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == arguments.clash_at:
            run.params({"lr": 0.2})
        if arguments.pace:
            time.sleep(arguments.pace)
    is_stored = run.finish(timeout=arguments.timeout)
    json.dump({"slowest_seconds": slowest, "is_stored": is_stored}, sys.stdout)


if __name__ == "__main__":
    main()
