"""SIGKILL at chosen lines of shipper and workers: everything arrives, once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.road import Road
from tests.fixtures.processes import Process

CRASH = str(Path(__file__).with_name("crash.py"))

SINK_POINTS = [
    pytest.param("subscribers.mlflow.sink:MlflowSink.write", "before", id="before-the-sink-write"),
    pytest.param("subscribers.mlflow.sink:MlflowSink.write", "after", id="before-it-is-noted"),
    pytest.param("bus.feed:RunFeed.settle", "before", id="between-sink-write-and-ack"),
    pytest.param("bus.feed:RunFeed.settle", "after", id="before-the-acks"),
]

LOG_POINTS = [
    pytest.param("bus.eventlog.log:EventLog.append", "before", id="before-the-commit"),
    pytest.param("bus.eventlog.log:EventLog.append", "after", id="between-commit-and-stored-ack"),
    pytest.param(
        "subscribers.log.consumer:LogConsumer._confirm", "after", id="between-stored-ack-and-ack"
    ),
]

SHIPPER_POINTS = [
    pytest.param("publishers.shipper.cuts:CutsFile.append", "before", id="before-the-cut"),
    pytest.param("publishers.shipper.cuts:CutsFile.append", "after", id="between-cut-and-send"),
    pytest.param("bus.mqtt:Link.send", "after", id="before-puback"),
    pytest.param("publishers.shipper.source:JournalSource.stored", "before", id="before-the-trim"),
    pytest.param("publishers.shipper.source:JournalSource.remove", "before", id="before-the-end"),
]


@pytest.mark.parametrize(("place", "when"), SINK_POINTS)
def test_a_sink_worker_killed_at_a_line_writes_everything_once(
    mosquitto_road: Road, place: str, when: str
) -> None:
    road = mosquitto_road
    road.worker("log")
    crashing = _crash(road, place, when, 2, "trainbus", "worker", "mlflow", "--heartbeat", "0.3")
    road.wait_working("mlflow")
    trainer = road.trainer("sink", "--steps", "300", "--pace", "0.02")
    assert crashing.wait(60) == -signal.SIGKILL
    road.worker("mlflow")
    assert trainer.wait(60) == 0
    road.wait_arrived("sink")
    road.wait_ended("sink", "FINISHED")


@pytest.mark.parametrize(("place", "when"), LOG_POINTS)
def test_a_log_worker_killed_at_a_line_stores_everything_once(
    mosquitto_road: Road, place: str, when: str
) -> None:
    road = mosquitto_road
    crashing = _crash(road, place, when, 2, "trainbus", "worker", "log", "--heartbeat", "0.3")
    road.worker("mlflow")
    road.wait_working("log")
    trainer = road.trainer("log", "--steps", "300", "--pace", "0.02")
    assert crashing.wait(60) == -signal.SIGKILL
    road.worker("log")
    assert trainer.wait(60) == 0
    road.wait_arrived("log")
    road.wait_ended("log", "FINISHED")


@pytest.mark.parametrize(("place", "when"), SHIPPER_POINTS)
def test_a_shipper_killed_at_a_line_delivers_everything_once(
    mosquitto_road: Road, place: str, when: str
) -> None:
    road = mosquitto_road
    road.worker("log")
    road.worker("mlflow")
    number = 2 if place.endswith("send") else 1
    trainer = road.trainer(
        "ship", "--steps", "100", "--timeout", "1", environ={"TRAINBUS_SHIPPER": "off"}
    )
    assert trainer.wait(60) == 0
    crashing = _crash(road, place, when, number, "publishers.shipper", str(road.spool))
    assert crashing.wait(60) == -signal.SIGKILL
    road.processes.python("-m", "publishers.shipper", str(road.spool), environ=road.environ)
    road.wait_arrived("ship")
    road.wait_ended("ship", "FINISHED")


def _crash(road: Road, place: str, when: str, number: int, *command: str) -> Process:
    return road.processes.python(
        *(CRASH, place, when, str(number), "--", *command), environ=road.environ, name="crashing"
    )
