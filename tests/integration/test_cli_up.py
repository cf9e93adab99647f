"""``trainbus up`` with real processes: serves a training, mends itself, ends whole."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from bus.broker.probe import answers_mqtt, free_port
from tests.fixtures.processes import Process, Processes, wait_until

TRAINING = """
import publishers
with publishers.start_run(project="digits", name="mlp", run_id="r1") as run:
    for step in range(50):
        run.log({"loss": 1.0 / (step + 1)}, step=step)
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        "TRAINBUS_HOME": str(tmp_path / "home"),
        "TRAINBUS_BROKER": f"mqtt://127.0.0.1:{free_port('127.0.0.1')}",
    }


def started(processes: Processes, environ: dict[str, str], *options: str) -> Process:
    up = processes.trainbus("up", *options, environ=environ)
    port = int(environ["TRAINBUS_BROKER"].rpartition(":")[2])
    wait_until(lambda: answers_mqtt("127.0.0.1", port) or not up.is_running, 30, "a broker")
    return up


def children(parent: int) -> dict[str, int]:
    """The parts by their last argument."""
    found = {}
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    for pid in " ".join(task.read_text() for task in tasks).split():
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        found[words[-2]] = int(pid)
    return found


def is_complete(processes: Processes, environ: dict[str, str]) -> bool:
    verify = processes.trainbus("verify", "r1", "--sink", "mlflow", "--json", environ=environ)
    if verify.wait() != 0:
        return False
    receipt = json.loads(verify.stdout)
    points: dict[str, int] = receipt["sinks"]["mlflow"]["points"]
    return receipt["status"] == "completed" and points["found"] == points["expected"] == 50


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_training_is_served_although_a_part_is_killed(
    processes: Processes, environ: dict[str, str]
) -> None:
    up = started(processes, environ)
    wait_until(lambda: {"log", "mlflow"} <= set(children(up.pid)), 30, "the workers")
    os.kill(children(up.pid)["mlflow"], signal.SIGKILL)
    wait_until(lambda: "mlflow | ended with status -9; starts again" in up.stderr, 20, "a restart")
    assert processes.python("-c", TRAINING, environ=environ).wait(60) == 0
    wait_until(lambda: is_complete(processes, environ), 60, "the receipt")
    left = list(children(up.pid).values())
    assert up.stop(40) == 0
    assert up.stderr.rstrip().endswith("all parts have ended")
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]
    assert "Traceback" not in up.stderr


@pytest.mark.timeout(90)
def test_settings_that_a_part_refuses_end_all_of_it_with_one_line(
    processes: Processes, environ: dict[str, str]
) -> None:
    up = processes.trainbus("up", environ={**environ, "TRAINBUS_LOG": "oracle://x"})
    assert up.wait(60) == 2
    assert "Traceback" not in up.stderr
    assert re.match(r"trainbus: (log|mlflow): .*oracle", up.stderr.strip().splitlines()[-1])


def test_an_unknown_sink_is_named(processes: Processes, environ: dict[str, str]) -> None:
    up = processes.trainbus("up", "--sink", "wandb", environ=environ)
    assert up.wait() == 2
    assert "no sink 'wandb'; installed: " in up.stderr


@pytest.mark.timeout(90)
def test_ctrl_c_while_it_starts_leaves_nothing(
    processes: Processes, environ: dict[str, str]
) -> None:
    up = processes.trainbus("up", environ=environ)
    wait_until(lambda: "starting" in up.stderr, 20, "the start")
    up.send_signal(signal.SIGINT)
    assert up.wait(40) == 0
    port = int(environ["TRAINBUS_BROKER"].rpartition(":")[2])
    assert not answers_mqtt("127.0.0.1", port)
