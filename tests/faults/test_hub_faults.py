"""A hub worker over a real broker: killed at chosen lines, with HUB away, and with its limits."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.eventlog import EventLog
from tests.faults.road import Road
from tests.fixtures.hub import KEY
from tests.fixtures.hubprocess import HubProcess
from tests.fixtures.processes import Process, wait_until

CRASH = str(Path(__file__).with_name("crash.py"))
TRAINER = str(Path(__file__).with_name("hubtrainer.py"))
EPOCHS = 12

QUICK = "metrics=50/s,checkpoint=50/s"
"""Limits that hold up no test."""

POINTS = [
    pytest.param("subscribers.hub.v1.client:HubClient.send_metrics", "after", id="after-metrics"),
    pytest.param("subscribers.hub.v1.client:HubClient.upload", "before", id="before-an-upload"),
    pytest.param("subscribers.hub.v1.client:HubClient.upload", "after", id="after-an-upload"),
    pytest.param("subscribers.hub.state:StateStore.save", "before", id="before-the-marks"),
    pytest.param("subscribers.hub.v1.sink:HubSink.write", "after", id="before-it-is-noted"),
    pytest.param("bus.feed:RunFeed.settle", "after", id="before-the-acks"),
]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    server = HubProcess(tmp_path / "hub", "--enforce-limits")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def free_hub(tmp_path: Path) -> Iterator[HubProcess]:
    """HUB without limits."""
    server = HubProcess(tmp_path / "hub")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def environ(road: Road, hub: HubProcess, rates: str = "") -> dict[str, str]:
    limits = {"TRAINBUS_HUB_KIND_RATE": rates} if rates else {}
    service = {"HUB_API_KEY": KEY, "ULTRALYTICS_HUB_API": hub.url}
    return {**road.environ, **service, **limits}


def worker(road: Road, hub: HubProcess, rates: str = QUICK) -> Process:
    arguments = ("worker", "hub", "--heartbeat", "0.3", "-v")
    return road.processes.trainbus(*arguments, environ=environ(road, hub, rates))


def trainer(road: Road, run: str, epochs: int = EPOCHS, pace: float = 0.4) -> Process:
    folder = road.folder / run
    folder.mkdir()
    arguments = (TRAINER, run, str(folder), str(epochs), str(pace))
    return road.processes.python(*arguments, environ=road.environ, name=run)


def model(hub: HubProcess) -> dict[str, Any]:
    """The only model."""
    found = hub.models()
    assert len(found) <= 1, "HUB has the run more than once"
    return found[0] if found else {"status": "", "metrics": {}, "uploads": []}


def check(hub: HubProcess, epochs: int = EPOCHS) -> None:
    """HUB has every epoch, the facts of the model, the best weights and the final model."""
    found = model(hub)
    expected: dict[str, dict[str, float]] = {
        str(epoch): {"train/loss": 1.0 / (epoch + 1)} for epoch in range(epochs)
    }
    expected["0"]["model/parameters"] = 7
    assert found["metrics"] == expected
    finals = [one for one in found["uploads"] if one["type"] == "final"]
    sha256 = hashlib.sha256(b"the final model").hexdigest()
    assert {(one["sha256"], one["map"]) for one in finals} == {(sha256, 0.5)}
    assert found["uploads"][-1]["type"] == "final"


def wait_marked(road: Road, run: str, seconds: float = 60.0) -> None:
    """Wait until the sink's marks hold all that the log has, of a run that has ended."""

    def is_marked() -> bool:
        log = EventLog.open(road.log_url)
        try:
            (source,) = log.sources(run)
            raw = log.get_sink_state("hub", "faults", run) or b""
        finally:
            log.close()
        return f'"{source.stored}"'.encode() in raw

    wait_until(is_marked, seconds, "marks of all events")


@pytest.mark.parametrize(("place", "when"), POINTS)
def test_a_hub_worker_killed_at_a_line_leaves_nothing_out_and_makes_no_second_model(
    mosquitto_road: Road, free_hub: HubProcess, place: str, when: str
) -> None:
    road = mosquitto_road
    road.worker("log")
    command = ("--", "trainbus", "worker", "hub", "--heartbeat", "0.3", "-v")
    number = "6" if "save" in place else "2"
    crashing = road.processes.python(
        *(CRASH, place, when, number, *command),
        environ=environ(road, free_hub, QUICK),
        name="crashing",
    )
    road.wait_working("hub")
    training = trainer(road, "r1")
    assert crashing.wait(60) == -signal.SIGKILL
    worker(road, free_hub)
    assert training.wait(60) == 0
    wait_marked(road, "r1")
    check(free_hub)


def test_an_hour_without_hub_costs_nothing(mosquitto_road: Road, free_hub: HubProcess) -> None:
    road = mosquitto_road
    road.worker("log")
    worker(road, free_hub)
    road.wait_working("hub")
    training = trainer(road, "r1", epochs=20, pace=0.2)
    wait_until(lambda: len(model(free_hub)["metrics"]) > 3, 30)
    free_hub.kill()
    # Training does not notice.
    assert training.wait(60) == 0
    free_hub.start()
    wait_marked(road, "r1")
    check(free_hub, 20)


def test_at_the_limits_of_hub_all_arrives_and_the_best_weights_are_not_left_out(
    mosquitto_road: Road, hub: HubProcess
) -> None:
    road = mosquitto_road
    road.worker("log")
    worker(road, hub, rates="")
    road.wait_working("hub")
    assert trainer(road, "r1", epochs=12, pace=0.5).wait(60) == 0
    wait_marked(road, "r1")
    found = model(hub)
    check(hub, 12)
    # One upload in a quarter of an hour, and the final one, which waits for nothing.
    assert [(one["type"], one["epoch"]) for one in found["uploads"]] == [
        ("epoch", 0),
        ("final", 11),
    ]
    assert found["too_soon"] == {}
    # The receipt knows what became of every one of the others.
    verify = road.processes.trainbus("verify", "r1", environ=environ(road, hub))
    assert verify.wait(60) == 0, verify.printed()
