"""How real trainings with Ultralytics end: asked to, crashed, without a bus."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from bus.eventlog import EventLog, Selection
from bus.events import decode
from bus.kinds import Checkpoint, RunFinished
from tests.fixtures.processes import wait_until
from tests.fixtures.yoloroad import YoloRoad, arguments, epochs_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CRASHING = """
import json, sys
from ultralytics import YOLO
from publishers.integrations.ultralytics import attach

def crash(trainer):
    if trainer.epoch == 1:
        raise RuntimeError("out of memory, or so")

model = attach(YOLO(sys.argv[1]), project="squares", run_id="crashed")
model.add_callback("on_train_batch_end", crash)
given = json.loads(sys.argv[2])
try:
    model.train(**given)
except RuntimeError:
    if sys.argv[3] == "caught":
        model.callbacks["on_train_batch_end"].remove(crash)
        attach(model, project="squares", run_id="second").train(**given)
    else:
        raise
"""


@pytest.fixture
def road(yolo_road: YoloRoad) -> YoloRoad:
    return yolo_road


def events_of(road: YoloRoad, run: str) -> list[Any]:
    with EventLog.open(f"sqlite:///{road.folder / 'home' / 'log.db'}") as log:
        return [decode(logged.raw).data for logged in log.select(Selection(run=run))]


def end_of(road: YoloRoad, run: str) -> RunFinished:
    """How a run ended, once the log has it."""

    def ends() -> list[RunFinished]:
        return [one for one in events_of(road, run) if isinstance(one, RunFinished)]

    (end,) = wait_until(ends, 60, f"the end of run {run}")
    return end


def given_to_train(road: YoloRoad) -> str:
    values = {"data": str(road.data), "project": str(road.runs), "epochs": 3, "imgsz": 64}
    return json.dumps({**values, "batch": 8, "workers": 0, "device": "cpu", "amp": False})


def test_a_training_that_is_asked_to_stop_ends_with_its_results(road: YoloRoad) -> None:
    trainer = road.train(*arguments(road, "t", epochs="500"), run="stopped")
    folder = road.runs / "t"
    wait_until(
        lambda: (folder / "results.csv").is_file() and len(epochs_of(folder)) >= 2,
        120,
        "two epochs",
    )
    stop = road.processes.trainbus("stop", "stopped", environ=road.environ)
    assert stop.wait(60) == 0, stop.printed()
    assert trainer.wait(120) == 0, trainer.printed()
    assert len(epochs_of(folder)) < 500
    assert end_of(road, "stopped").status == "completed"
    checkpoints = [one for one in events_of(road, "stopped") if isinstance(one, Checkpoint)]
    assert checkpoints[-1].is_final
    assert checkpoints[-1].blob.size == (folder / "weights/best.pt").stat().st_size


@pytest.mark.parametrize("how", ["uncaught", "caught"])
def test_a_training_that_crashes_has_failed(road: YoloRoad, how: str) -> None:
    given = given_to_train(road)
    trainer = road.python("-c", CRASHING, str(road.yolo.weights), given, how)
    assert trainer.wait(180) == (1 if how == "uncaught" else 0), trainer.printed()
    end = end_of(road, "crashed")
    assert end.status == "failed"
    if how == "uncaught" or road.yolo.version != "8.4.90":
        assert "out of memory, or so" in end.error
    if how == "caught":
        assert end_of(road, "second").status == "completed"


def test_without_a_bus_a_training_takes_no_longer_than_its_end_may_wait(road: YoloRoad) -> None:
    seconds: dict[str, float] = {}
    for broker in (road.environ["TRAINBUS_BROKER"], "mqtt://127.0.0.1:9"):
        road.environ["TRAINBUS_BROKER"] = broker
        road.environ["TRAINBUS_SPOOL"] = str(road.folder / f"spool-{len(seconds)}")
        begin = time.monotonic()
        trainer = road.train(*arguments(road, f"t{len(seconds)}"), run=f"r{len(seconds)}")
        assert trainer.wait(180) == 0, trainer.printed()
        seconds[broker] = time.monotonic() - begin
    with_bus, without = seconds.values()
    # The end waits 10 s once, and trainbus run for what is left another 10 s.
    assert without - with_bus < 30
