"""From a program over a real broker and real workers into an MLflow of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bus.broker import EmbeddedBroker
from tests.fixtures.processes import Process, Processes
from tests.integration.mlflow_programs import contents, differences

__all__ = ["Road"]

START = (
    "import os, runpy, sys\n"
    "os.chdir(sys.argv[1])\n"
    "sys.argv[:] = ['train.py']\n"
    "runpy.run_path('train.py', run_name='__main__')\n"
)

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true"}


class Road:
    """A broker, the log worker, the mlflow worker, and an MLflow at the end of it."""

    def __init__(self, broker: EmbeddedBroker, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.processes = processes
        self.uri = f"sqlite:///{folder / 'bus' / 'mlflow.db'}"
        self.environ = {
            "TRAINBUS_BROKER": str(broker.address),
            "TRAINBUS_LOG": f"sqlite:///{folder / 'log.db'}",
            "TRAINBUS_HOME": str(folder / "home"),
            "TRAINBUS_SPOOL": str(folder / "home" / "spool"),
            **QUIET,
        }
        (folder / "bus").mkdir()
        worker = {**self.environ, "MLFLOW_TRACKING_URI": self.uri}
        for sink in ("log", "mlflow"):
            processes.trainbus("worker", sink, "--heartbeat", "0.3", environ=worker)

    def run(self, program: str, uri: str, **more: str) -> Process:
        """Run a program against an MLflow, to its end."""
        process = self.start(program, uri, **more)
        assert process.wait(120) == 0, process.printed()
        return process

    def start(self, program: str, uri: str, **more: str) -> Process:
        folder = self.folder / f"program-{len(self.processes.started)}"
        folder.mkdir()
        (folder / "train.py").write_text(program)
        environ = {**self.environ, "MLFLOW_TRACKING_URI": uri, **more}
        return self.processes.python("-c", START, str(folder), environ=environ, name="program")

    def compare(self, program: str, *, has_times: bool = True) -> dict[str, Any]:
        """Run a program both ways and wait until the two hold the same."""
        plain = f"sqlite:///{self.folder / 'plain.db'}"
        self.run(program, plain)
        self.run(program, "trainbus:")
        wanted = contents(plain, has_times=has_times)
        self.wait_for(wanted, has_times=has_times)
        return wanted

    def wait_for(self, wanted: dict[str, Any], *, has_times: bool = True) -> None:
        deadline = time.monotonic() + 60
        found: dict[str, Any] = {}
        while time.monotonic() < deadline:
            if (self.folder / "bus" / "mlflow.db").exists():
                found = contents(self.uri, has_times=has_times)
                if found == wanted:
                    return
            time.sleep(0.3)
        assert not (lines := differences(found, wanted)), "\n".join(lines)

    def look(self) -> dict[str, Any]:
        """What is in the MLflow at the end; nothing before there is one."""
        if not (self.folder / "bus" / "mlflow.db").exists():
            return {"runs": {}}
        return contents(self.uri)
