"""``trainbus demo`` as a newcomer runs it: a real training, a killed worker, nothing missing."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
import zipfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bus.broker import find_engine
from bus.errors import ConfigError
from tests.fixtures.missing import missing
from tests.fixtures.processes import Processes, wait_until

EPOCHS = 40
STEPS = 85
"""Batches of 8 in half of the 1,347 images that are trained on."""

PROMISED_SECONDS = 90.0


def run_demo(processes: Processes, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    demo = processes.trainbus("demo", "--json", "--folder", str(folder), *options)
    status = demo.wait(200)
    assert status == 0, demo.printed()
    receipt: dict[str, Any] = json.loads(demo.stdout)
    return receipt, demo.stderr


def query(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return connection.execute(statement).fetchall()


def clearml_points(folder: Path) -> int:
    """How many scalars the session has that a ClearML server would import."""
    [session] = folder.glob("clearml/offline-*.zip")
    with zipfile.ZipFile(session) as archive:
        lines = archive.read("metrics.jsonl").splitlines()
    events = [event for line in lines for event in json.loads(line)]
    return len(
        {
            (event["metric"], event["variant"], event["iter"])
            for event in events
            if event["type"] == "training_stats_scalar"
        }
    )


def processes_in(folder: Path) -> list[str]:
    """Command lines of the processes that work below a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_receipt_agrees_with_what_mlflow_holds(processes: Processes, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    started = time.monotonic()
    receipt, shown = run_demo(processes, folder)
    assert time.monotonic() - started < PROMISED_SECONDS
    assert "killed the mlflow worker (SIGKILL" in shown
    assert receipt["status"] == "completed"
    assert receipt["complete"] is True
    assert receipt["stored"] == receipt["published"] > 0
    assert sorted(receipt["sinks"]) == ["clearml", "mlflow"]
    for sink in receipt["sinks"].values():
        reached = sink["delivered"] + sink["not_applicable"] + sink["superseded"]
        assert reached == receipt["published"]
        assert (sink["dead"], sink["missing"], sink["lost"]) == (0, 0, 0)
    sink = receipt["sinks"]["mlflow"]

    points = query(folder, "SELECT key, timestamp, step, value FROM metrics")
    assert len(set(points)) == len(points) == sink["points"]["found"] == sink["points"]["expected"]
    of_key = Counter(key for key, *_ in points)
    for key in ("train/loss", "train/accuracy", "rank1/train/loss", "rank1/train/accuracy"):
        assert of_key[key] == EPOCHS * STEPS
        assert sorted(s for k, _, s, _ in points if k == key) == list(range(EPOCHS * STEPS))
    assert of_key["val/accuracy"] == of_key["val/loss"] == of_key["epoch"] == EPOCHS
    assert [row[0] for row in query(folder, "SELECT status FROM runs")] == ["FINISHED"]
    assert clearml_points(folder) == receipt["sinks"]["clearml"]["points"]["found"] > 0
    assert processes_in(folder) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_everything_a_training_makes_is_in_mlflow(processes: Processes, tmp_path: Path) -> None:
    try:
        find_engine("nats")
    except ConfigError as error:
        missing("nats-server", str(error))
    folder = tmp_path / "demo"
    receipt, _ = run_demo(processes, folder, "--engine", "nats", "--epochs", "12", "--with-hub")
    assert receipt["complete"] is True
    [model] = [json.loads(file.read_text()) for file in folder.glob("hub/*.json")]
    assert model["status"] == "trained"
    assert len(model["metrics"]) > 12
    assert query(folder, "SELECT name FROM experiments WHERE name = 'digits'") == [("digits",)]
    params = dict(query(folder, "SELECT key, value FROM params"))
    assert params["epochs"] == "12"
    assert params["batch_size"] == "8"
    [(accuracy,)] = query(folder, "SELECT value FROM latest_metrics WHERE key = 'accuracy'")
    assert accuracy > 0.9, "the classifier learnt nothing"
    tags = dict(query(folder, "SELECT key, value FROM tags"))
    assert tags["mlflow.runName"] == "mlp"
    assert tags["data"] == "sklearn.datasets.load_digits"
    assert query(folder, "SELECT name, version, status FROM model_versions") == [
        ("digits-mlp", 1, "READY")
    ]
    files = [str(f.relative_to(folder)) for f in folder.joinpath("mlartifacts").rglob("*.*")]
    for part in ("misclassified", "confusion", "epoch10.joblib", "epoch12.joblib", "model.skops"):
        assert any(part in file for file in files), f"no {part} among {files}"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_no_process(
    processes: Processes, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "demo"
    demo = processes.trainbus("demo", "--folder", str(folder))
    wait_until(lambda: "epoch" in trained(folder) or not demo.is_running, 60, "training")
    assert len(processes_in(folder)) >= 7
    demo.send_signal(number)
    assert demo.wait(40) == 130
    assert "stopped" in demo.stderr
    assert "Traceback" not in demo.stderr
    assert processes_in(folder) == []


def trained(folder: Path) -> str:
    try:
        return (folder / "printed" / "training-node-0.log").read_text()
    except FileNotFoundError:
        return ""


def test_a_folder_with_something_else_in_it_is_left_alone(
    processes: Processes, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    demo = processes.trainbus("demo", "--folder", str(tmp_path))
    assert demo.wait() == 2
    assert "is not empty and no demo made it" in demo.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
