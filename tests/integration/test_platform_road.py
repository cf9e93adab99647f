"""From a training process over a real broker to Platform: killed workers, and its stop button."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.broker import EmbeddedBroker
from tests.fixtures.platform import KEY, PlatformServer, running_platform
from tests.fixtures.processes import Process, Processes, wait_until

TRAINER = str(Path(__file__).with_name("platform_trainer.py"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def platform() -> Iterator[PlatformServer]:
    with running_platform() as server:
        yield server


@pytest.fixture
def environ(tmp_path: Path, mosquitto: EmbeddedBroker, platform: PlatformServer) -> dict[str, str]:
    return {
        "TRAINBUS_HOME": str(tmp_path),
        "TRAINBUS_BROKER": str(mosquitto.address),
        "TRAINBUS_PLATFORM_PLAN": "pro",
        "ULTRALYTICS_PLATFORM_URL": platform.url,
        "PYTHONPATH": str(Path.cwd()),
    }


def worker(processes: Processes, environ: dict[str, str]) -> Process:
    secret = {**environ, "ULTRALYTICS_API_KEY": KEY}
    return processes.trainbus("worker", "hub", "--heartbeat", "0.3", "-v", environ=secret)


def test_a_run_whose_workers_are_killed_is_there_whole_and_stops_when_asked(
    processes: Processes, environ: dict[str, str], platform: PlatformServer, tmp_path: Path
) -> None:
    processes.trainbus("worker", "log", "--heartbeat", "0.3", environ=environ)
    first = worker(processes, environ)
    trainer = processes.python(TRAINER, "r1", str(tmp_path), environ=environ, name="trainer")
    for killed in (first, worker(processes, environ)):
        before = len(platform.received)
        wait_until(lambda before=before: len(platform.received) >= before + 4, 60, "requests")  # type: ignore[misc]  # mypy knows no type for a lambda with a default
        killed.kill()
    worker(processes, environ)
    (model,) = platform.models.values()
    model.is_stopped = True
    assert trainer.wait(90) == 0, trainer.printed()
    told = json.loads(trainer.stdout.splitlines()[-1])
    assert told["reason"] == "stopped on Ultralytics Platform"
    wait_until(lambda: model.status == "completed", 60, "the end of the run")
    times = Counter(model.epochs)
    assert sorted(times) == list(range(told["epochs"]))
    # A worker killed between a request and the note of it: its successor repeats that one.
    assert sum(times.values()) - len(times) <= 2
    assert all(
        data["metrics"].keys() == {"train/loss", "metrics/acc"}
        for data in model.of("epoch_end")[1:]
    )
    assert model.weights is not None
    assert model.files[model.weights][0] == len(b"the best weights")
    assert platform.refused == []
    for file in [one for one in tmp_path.rglob("*") if one.is_file()]:
        assert KEY[3:].encode() not in file.read_bytes(), file
