"""Runs the benchmarks and prints one JSON object: ``make bench`` or ``ARGS="road memory"``.

Nothing here asserts a time: the machines are noisy. Figures stand beside what they are compared
with, measured in the same run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

NAMES = (
    "road",
    "live",
    "latency",
    "wiped_broker",
    "mlflow",
    "clearml",
    "memory",
    "look",
    "workers",
    "takeover",
    "many_runs",
    "hub",
)
"""All but ``log_call``, which is a program of its own: it wants a process without threads."""

PACKAGES = ("aiomqtt", "clearml", "msgspec", "mlflow", "orjson", "paho-mqtt", "sqlalchemy")


def main() -> None:
    """Run what the command line names, by default all."""
    parser = argparse.ArgumentParser(description="benchmarks of trainbus, as JSON")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--repeat", type=int, default=3, help="how often each is run")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    result: dict[str, object] = {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    for name in arguments.names or NAMES:
        module = importlib.import_module(f"tests.benchmarks.bench_{name}")
        runs = []
        for number in range(arguments.repeat):
            print(f"{name} {number + 1}/{arguments.repeat}", file=sys.stderr)
            with tempfile.TemporaryDirectory() as folder:
                runs.append(module.measure(Path(folder)))
        result[name] = runs
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
