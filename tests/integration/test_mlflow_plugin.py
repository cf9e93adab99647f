"""Unmodified MLflow programs, over a real broker into another MLflow: the same is in both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.broker import EmbeddedBroker
from tests.fixtures.processes import Process, Processes, wait_until
from tests.integration.mlflow_programs import AUTOLOG, FLUENT, MODELS, NESTED, contents, differences

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


@pytest.fixture
def road(mosquitto: EmbeddedBroker, tmp_path: Path, processes: Processes) -> Iterator[Road]:
    built = Road(mosquitto, tmp_path, processes)
    yield built


@pytest.mark.slow
def test_the_fluent_calls_of_a_program_arrive_value_by_value(road: Road) -> None:
    wanted = road.compare(FLUENT)
    run = wanted["runs"]["team/digits (a)", "fluent"]
    assert len(run["points"]["batch"]) == 700
    assert run["points"]["after the end"] == [(2, 1700000000004, "4.0")]
    assert run["status"] == "FINISHED"
    assert wanted["runs"]["team/digits (a)", "failing"]["status"] == "FAILED"
    assert len(wanted["runs"]) == 3


@pytest.mark.slow
def test_nested_runs_and_runs_of_several_threads_arrive(road: Road) -> None:
    wanted = road.compare(NESTED)
    runs = wanted["runs"]
    assert len(runs) == 8
    assert runs["Default", "child 1"]["tags"]["mlflow.parentRunId"] == "parent"


@pytest.mark.slow
def test_models_arrive_with_their_files_params_points_and_versions(road: Road) -> None:
    wanted = road.compare(MODELS)
    assert [model["name"] for model in wanted["models"]] == ["line", "plain"]
    assert len(wanted["versions"]) == 2


@pytest.mark.slow
def test_autolog_of_scikit_learn_arrives(road: Road) -> None:
    wanted = road.compare(AUTOLOG, has_times=False)
    (run,) = wanted["runs"].values()
    assert run["params"]["C"] == "0.5"
    assert "training_accuracy_score" in run["points"]
    assert len(wanted["models"]) == 1


@pytest.mark.slow
def test_a_program_that_is_killed_ends_its_run_as_killed(road: Road) -> None:
    program = """
import time
import mlflow
mlflow.start_run(run_name="killed")
for step in range(200):
    mlflow.log_metric("m", step, step=step, synchronous=False)
print("logged", flush=True)
time.sleep(1000)
"""
    process = road.start(program, "trainbus:")
    wait_until(lambda: "logged" in process.stdout, 60)
    process.kill()

    def is_whole() -> bool:
        found = road.look()["runs"].get(("Default", "killed"), {"status": "", "points": {}})
        # The sink writes the status before the last points.
        steps = [step for step, *_ in found["points"].get("m", [])]
        return found["status"] == "KILLED" and steps == list(range(200))

    wait_until(is_whole, 60)
