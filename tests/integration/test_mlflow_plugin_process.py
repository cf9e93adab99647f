"""The MLflow plugin in programs of their own: ends, forks, hand-overs, no broker."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.processes import Process, Processes
from tests.fixtures.spool import Spool

HASTE = """
from publishers import exits
from publishers.integrations.mlflow import ledger
exits._TIMEOUT_SECONDS = ledger._WAIT_SECONDS = 0.1
"""
"""There is no shipper here, and nothing to wait for at the exit."""


class Programs:
    """Programs that log with MLflow's own calls, into a spool without a shipper."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self.spool = Spool(folder / "spool")
        self.environ = {
            "MLFLOW_TRACKING_URI": "trainbus:",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "TRAINBUS_HOME": str(folder / "home"),
            "TRAINBUS_SPOOL": str(folder / "spool"),
            "TRAINBUS_SHIPPER": "off",
        }

    def run(self, program: str, prelude: str = HASTE, **environ: str) -> tuple[int, Process]:
        process = self._processes.python(
            "-W", "error::UserWarning", "-c", prelude + program, environ={**self.environ, **environ}
        )
        return process.wait(60), process

    def all(self, kind: str) -> list[dict[str, Any]]:
        sources = self.spool.sources()
        return [one["data"] for source in sources for one in self.spool.records(kind, source)]


@pytest.fixture
def programs(processes: Processes, tmp_path: Path) -> Programs:
    return Programs(processes, tmp_path)


def test_an_exception_that_nobody_catches_ends_the_run_as_failed(programs: Programs) -> None:
    status, process = programs.run(
        "import mlflow\nmlflow.start_run()\nmlflow.log_metric('m', 1)\nraise OSError('no data')\n"
    )
    assert status == 1
    assert "OSError: no data" in process.stderr
    (end,) = programs.all("run_finished")
    assert (end["status"], end["error"]) == ("failed", "OSError: no data")


def test_an_exception_in_a_with_block_ends_the_run_as_failed(programs: Programs) -> None:
    program = """
import mlflow
try:
    with mlflow.start_run():
        raise ValueError
except ValueError:
    pass
with mlflow.start_run():
    pass
mlflow.start_run()
mlflow.end_run("KILLED")
"""
    assert programs.run(program)[0] == 0
    ends = sorted(end["status"] for end in programs.all("run_finished"))
    assert ends == ["completed", "failed", "killed"]


def test_points_of_a_model_are_published_where_nobody_ends_the_run(programs: Programs) -> None:
    program = """
import pathlib, tempfile
import mlflow
from mlflow.entities import LoggedModelStatus
run = mlflow.start_run()
client = mlflow.MlflowClient()
model = client.create_logged_model(run.info.experiment_id, source_run_id=run.info.run_id)
folder = tempfile.mkdtemp()
pathlib.Path(folder, "MLmodel").write_text("flavors: {}")
client.log_model_artifacts(model.model_id, folder)
client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
mlflow.log_metric("acc", 0.5, step=2, timestamp=5, model_id=model.model_id)
"""
    assert programs.run(program)[0] == 0
    last = programs.all("model")[-1]
    assert last["options"]["mlflow"]["points"] == [["acc", 5, 2, 0.5, None, None]]
    assert list((programs.spool.folder / "kept").iterdir()) == []


def test_a_forked_child_leaves_the_run_alone_and_can_have_its_own(programs: Programs) -> None:
    program = """
import os
import mlflow
with mlflow.start_run(run_name="parent") as run:
    mlflow.log_metric("m", 1)
    child = os.fork()
    if child == 0:
        mlflow.MlflowClient().log_metric(run.info.run_id, "m", 2)
        with mlflow.start_run(run_name="child"):
            mlflow.log_metric("of child", 3)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    mlflow.log_metric("m", 4)
"""
    assert programs.run(program)[0] == 0
    points = {
        programs.spool.payloads(source)[0]["run_name"]: [
            values for _, values in programs.spool.points(source)
        ]
        for source in programs.spool.sources()
    }
    assert points == {"parent": [{"m": 1.0}, {"m": 4.0}], "child": [{"of child": 3.0}]}


def test_a_run_is_handed_on_to_another_process(programs: Programs) -> None:
    program = """
import os, subprocess, sys
import mlflow
mlflow.set_experiment("handed on")
client = mlflow.MlflowClient()
experiment = client.get_experiment_by_name("handed on").experiment_id
run = client.create_run(experiment)
child = "import mlflow\\nwith mlflow.start_run() as run: mlflow.log_metric('m', 1)\\n"
environ = {**os.environ, "MLFLOW_RUN_ID": run.info.run_id, "MLFLOW_EXPERIMENT_ID": experiment}
subprocess.run([sys.executable, "-c", sys.argv[1] + child], env=environ, check=True)
client.set_terminated(run.info.run_id)
"""
    process = programs._processes.python(
        "-c", HASTE + program, HASTE, environ=programs.environ, name="parent"
    )
    assert process.wait(60) == 0
    headers = [programs.spool.payloads(source)[0] for source in programs.spool.sources()]
    assert len({header["run"] for header in headers}) == 1
    assert {header["project"] for header in headers} == {"handed on"}
    assert sorted(start["attempt"] for start in programs.all("run_started")) == [1, 2]
    assert [end["status"] for end in programs.all("run_finished")] == ["completed"] * 2


def test_a_broker_that_is_not_there_holds_nothing_up(programs: Programs) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    program = """
import json, time
import mlflow
longest, begun = 0.0, time.monotonic()
with mlflow.start_run():
    for step in range(300):
        before = time.monotonic()
        mlflow.log_metric("m", step, step=step)
        mlflow.log_param(f"p{step}", step)
        longest = max(longest, time.monotonic() - before)
    mlflow.log_text("x", "a.txt")
print(json.dumps([longest, time.monotonic() - begun]))
"""
    status, process = programs.run(
        program, TRAINBUS_BROKER=f"mqtt://127.0.0.1:{port}", TRAINBUS_SHIPPER="auto"
    )
    assert status == 0
    longest, whole = json.loads(process.stdout)
    # A call takes a tenth of a millisecond; what is shut out is waiting for a connection.
    assert longest < 2.0
    assert whole < 20.0
    (source,) = programs.spool.sources()
    assert len(programs.spool.points(source)) == 300


def test_mlflow_itself_loads_nothing_of_the_plugin_but_its_entries(programs: Programs) -> None:
    program = """
import sys
import mlflow
mlflow.MlflowClient().search_experiments()
parts = [name for name in sys.modules if name.startswith("publishers")]
wanted = ["publishers", "publishers.integrations", "publishers.integrations.mlflow"]
print(sorted(set(parts) - {*wanted, "publishers.integrations.mlflow.entries"}))
"""
    uri = f"sqlite:///{programs.spool.folder.parent / 'mlflow.db'}"
    status, process = programs.run(program, prelude="", MLFLOW_TRACKING_URI=uri)
    assert status == 0
    assert "publishers.integrations.mlflow.store" not in process.stdout
    assert "publishers.integrations.mlflow.ledger" not in process.stdout
