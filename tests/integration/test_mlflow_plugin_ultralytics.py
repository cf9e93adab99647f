"""Ultralytics' own MLflow callback, unchanged, over the bus: compared with its results.csv."""

from __future__ import annotations

import csv
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from bus.broker import EmbeddedBroker
from tests.fixtures.processes import Processes, wait_until
from tests.fixtures.ultralytics import YoloPython, make_data
from tests.integration.mlflow_road import Road

EPOCHS = 3

PROGRAM = """
import sys
# MLflow comes from the environment of the tests; all else is that of Ultralytics.
sys.path.append(sys.argv[1])
from ultralytics import YOLO, settings
settings.update({"mlflow": True})
YOLO("yolo11n.yaml").train(
    data=sys.argv[2], project=sys.argv[3], name="tiny", epochs=3, imgsz=64, batch=8,
    workers=0, device="cpu", amp=False,
)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_callback_of_ultralytics_publishes_what_its_results_say(
    yolo: YoloPython, mosquitto: EmbeddedBroker, tmp_path: Path, processes: Processes
) -> None:
    road = Road(mosquitto, tmp_path, processes)
    data = make_data(tmp_path / "data", yolo)
    environ = {
        **road.environ,
        **yolo.environ(tmp_path / "settings"),
        "MLFLOW_TRACKING_URI": "trainbus:",
        "MLFLOW_EXPERIMENT_NAME": "squares",
        "MLFLOW_RUN": "tiny",
    }
    packages, runs = sysconfig.get_path("purelib"), tmp_path / "runs"
    command = [yolo.executable, "-c", PROGRAM, packages, str(data), str(runs)]
    training = processes.start(command, environ, name="training")
    assert training.wait(200) == 0, training.printed()
    (results,) = runs.rglob("results.csv")
    with results.open() as file:
        rows = [
            {key.strip(): float(text) for key, text in row.items()} for row in csv.DictReader(file)
        ]
    assert len(rows) == EPOCHS

    def run() -> dict[str, Any]:
        found: dict[str, Any] = road.look()["runs"].get(("squares", "tiny"), {})
        return found

    wait_until(lambda: run().get("status") == "FINISHED" and "lr/pg0" in run()["points"], 60)
    found = run()
    assert (found["params"]["epochs"], found["params"]["imgsz"]) == ("3", "64")
    for key in rows[0].keys() - {"epoch", "time"}:
        points = found["points"][key.replace("(", "").replace(")", "")]
        by_step = {step: float(value) for step, _, value in points}
        assert [by_step[epoch] for epoch in range(EPOCHS)] == pytest.approx(
            [row[key] for row in rows], rel=1e-3, abs=1e-5
        ), key
    folder = results.parent
    files = {path.name for path in folder.iterdir() if path.suffix in {".png", ".jpg", ".csv"}}
    assert files <= set(found["files"])
    assert {"weights/best.pt", "weights/last.pt"} <= set(found["files"])
