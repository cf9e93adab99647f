"""Dead letters: what a sink refused is tried again when it no longer does, and written once.

The sink appends a row per event, and refuses tags until a file exists.
"""

from __future__ import annotations

import signal
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from bus.eventlog import EventLog
from tests.faults.road import Road
from tests.fixtures.processes import Process, wait_until

SINKS = str(Path(__file__).with_name("sinks"))
CRASH = str(Path(__file__).with_name("crash.py"))

POISON = """
import sys, publishers
run = publishers.start_run(project="dead", run_id=sys.argv[1])
for step in range(20):
    run.log({"a": step}, step=step)
    if step % 10 == 5:
        run.tags({"step": str(step)})
run.finish()
"""


class Choosy:
    """A road to a sink that refuses tags, and what that sink holds."""

    def __init__(self, road: Road) -> None:
        self.road = road
        self.path = road.folder / "appended.db"
        self.flag = road.folder / "takes-tags"
        self.run = road.run_id("poison")

    @property
    def environ(self) -> dict[str, str]:
        return {
            **self.road.environ,
            "PYTHONPATH": f"{self.road.environ['PYTHONPATH']}:{SINKS}",
            "APPENDING_SINK_DB": str(self.path),
            "APPENDING_SINK_REFUSES": "tags",
            "APPENDING_SINK_FLAG": str(self.flag),
        }

    def worker(self, *options: str) -> Process:
        arguments = ("worker", "appending", "--heartbeat", "0.3", "-v", *options)
        return self.road.processes.trainbus(*arguments, environ=self.environ)

    def crashing_worker(self, place: str, when: str) -> Process:
        command = ("trainbus", "worker", "appending", "--heartbeat", "0.3")
        return self.road.processes.python(
            *(CRASH, place, when, "1", "--", *command), environ=self.environ, name="crashing"
        )

    def command(self, *arguments: str) -> tuple[int, str, str]:
        """Run trainbus to its end: exit status and what it printed."""
        process = self.road.processes.trainbus(*arguments, environ=self.environ)
        return process.wait(60), process.stdout, process.stderr

    def dead(self, *options: str) -> list[dict[str, Any]]:
        _, out, _ = self.command("dead", "ls", "--json", "--run", self.run, *options)
        found: list[dict[str, Any]] = orjson.loads(out)
        return found

    def receipt(self) -> dict[str, Any]:
        _, out, _ = self.command("verify", self.run, "--json")
        found: dict[str, Any] = orjson.loads(out)["sinks"]["appending"]
        return found

    def poison(self) -> None:
        """Train, with two events the sink refuses, and wait until they are dead letters."""
        trainer = self.road.processes.python("-c", POISON, self.run, environ=self.road.environ)
        assert trainer.wait(60) == 0
        wait_until(lambda: self.states() == {"open": 2}, 30, "two dead letters")
        wait_until(lambda: len(self.rows()) + 2 == self.published(), 30, "all around them arrives")

    def states(self) -> dict[str, int]:
        with EventLog.open(self.road.log_url) as log:
            return dict(Counter(one.state for one in log.dead_letters(run=self.run)))

    def published(self) -> int:
        with EventLog.open(self.road.log_url) as log:
            return sum(state.stored.top for state in log.sources(self.run))

    def rows(self) -> list[int]:
        """The ids the sink holds, in the order of writing."""
        if not self.path.exists():
            return []
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=30)
        try:
            return [number for (number,) in connection.execute("select id from rows")]
        finally:
            connection.close()

    def is_whole(self) -> bool:
        """The sink holds every event once."""
        return sorted(self.rows()) == list(range(1, self.published() + 1))


@pytest.fixture
def choosy(road: Road) -> Choosy:
    return Choosy(road)


@pytest.fixture
def mosquitto_choosy(mosquitto_road: Road) -> Choosy:
    return Choosy(mosquitto_road)


def test_a_dead_letter_is_shown_and_retried_and_its_event_is_written_once(choosy: Choosy) -> None:
    choosy.road.worker("log")
    choosy.worker()
    choosy.poison()
    assert choosy.receipt()["dead"] == 2
    first, second = choosy.dead("--group", "appending")
    assert (first["group"], first["state"], first["reason"]) == ("appending", "open", "permanent")
    status, out, _ = choosy.command("dead", "show", str(first["id"]))
    assert status == 0
    assert "tags are refused" in out
    assert '"step": "5"' in out

    status, _, err = choosy.command("dead", "retry", str(first["id"]), "--wait", "30")
    assert status == 1, "it is refused again"
    assert "refused again" in err
    assert choosy.dead()[0]["attempts"] > first["attempts"]

    choosy.flag.touch()
    status, _, err = choosy.command("dead", "retry", str(first["id"]), "--wait", "30")
    assert (status, choosy.states()) == (0, {"resolved": 1, "open": 1}), err
    assert choosy.receipt()["dead"] == 1
    status, _, err = choosy.command("dead", "retry", "--group", "appending", "--wait", "30")
    assert (status, choosy.states()) == (0, {"resolved": 2}), err
    assert choosy.is_whole()

    status, _, err = choosy.command("dead", "retry", str(first["id"]), str(second["id"]))
    assert (status, "delivered already" in err) == (0, True)
    # As a replay of all of it: what the sink has, it drops.
    assert choosy.command("replay", "--run", choosy.run, "--to", "appending")[0] == 0
    assert (choosy.receipt()["dead"], choosy.receipt()["missing"]) == (0, 0)
    assert choosy.is_whole()
    assert choosy.dead() == []
    assert len(choosy.dead("--state", "all")) == 2


def test_a_discarded_letter_stays_dead_also_in_a_replay(mosquitto_choosy: Choosy) -> None:
    choosy = mosquitto_choosy
    choosy.road.worker("log")
    choosy.worker()
    choosy.poison()
    status, _, err = choosy.command("dead", "discard", "--run", choosy.run)
    assert status == 0
    assert "discarded 2 dead letters" in err
    choosy.flag.touch()
    assert choosy.command("replay", "--run", choosy.run, "--to", "appending")[0] == 0
    assert choosy.command("dead", "retry", "--all")[0] == 0
    (letter, _) = choosy.dead("--state", "discarded")
    assert (choosy.receipt()["dead"], choosy.receipt()["missing"]) == (2, 0)
    # By its number it can still be had.
    assert choosy.command("dead", "retry", str(letter["id"]), "--wait", "30")[0] == 0
    assert choosy.receipt()["dead"] == 1


def test_a_retry_waits_for_a_worker_and_needs_no_broker_to_be_kept(
    mosquitto_choosy: Choosy,
) -> None:
    choosy = mosquitto_choosy
    choosy.road.worker("log")
    worker = choosy.worker()
    choosy.poison()
    worker.kill()
    choosy.flag.touch()
    broker = choosy.road.broker
    broker.kill()
    status, _, err = choosy.command("dead", "retry", "--all", "--wait", "0")
    assert status == 0
    assert "not tried yet: 2" in err
    broker.start()
    choosy.worker()
    wait_until(lambda: choosy.states() == {"resolved": 2}, 40, "both delivered")
    assert choosy.is_whole()


@pytest.mark.parametrize(
    ("place", "when"),
    [
        ("appending_sink:AppendingSink.write", "after"),
        ("subscribers.worker.letters:DeadLetters.resolve", "before"),
        ("bus.feed:RunFeed.settle_retry", "before"),
    ],
)
def test_a_worker_killed_within_a_retry_writes_it_once(
    mosquitto_choosy: Choosy, place: str, when: str
) -> None:
    choosy = mosquitto_choosy
    choosy.road.worker("log")
    worker = choosy.worker()
    choosy.poison()
    assert worker.stop() == 0
    choosy.flag.touch()
    crashing = choosy.crashing_worker(place, when)
    assert choosy.command("dead", "retry", "--all", "--wait", "0")[0] == 0
    assert crashing.wait(60) == -signal.SIGKILL
    choosy.worker()
    wait_until(lambda: choosy.states() == {"resolved": 2}, 40, "both delivered")
    assert choosy.is_whole()
    assert (choosy.receipt()["dead"], choosy.receipt()["missing"]) == (0, 0)


def test_a_worker_without_the_event_log_retries_what_is_sent_to_it(
    mosquitto_choosy: Choosy,
) -> None:
    choosy = mosquitto_choosy
    choosy.road.worker("log")
    choosy.worker("--no-log")
    choosy.road.wait_working("appending")  # what was sent before, it never sees
    choosy.poison()
    choosy.flag.touch()
    status, _, err = choosy.command("dead", "retry", "--all", "--wait", "30")
    assert (status, choosy.states()) == (0, {"resolved": 2}), err
    assert choosy.is_whole()


def test_a_parameter_mlflow_refused_arrives_once_it_can(mosquitto_road: Road) -> None:
    road = mosquitto_road
    choosy = Choosy(road)
    road.worker("log")
    road.worker("mlflow")
    assert road.trainer("poison", "--steps", "20", "--clash-at", "10").wait(60) == 0
    road.wait_arrived("poison")
    wait_until(lambda: choosy.states() == {"open": 1}, 30, "the dead letter")

    def verify() -> dict[str, Any]:
        _, out, _ = choosy.command("verify", choosy.run, "--json")
        found: dict[str, Any] = orjson.loads(out)["sinks"]["mlflow"]
        return found

    before = verify()
    assert choosy.command("dead", "retry", "--all", "--wait", "30")[0] == 1
    assert verify() == before
    connection = sqlite3.connect(road.mlflow_db, timeout=30)
    with connection:
        connection.execute("delete from params where key like '%lr'")
    connection.close()
    assert choosy.command("dead", "retry", "--all", "--wait", "30")[0] == 0
    assert choosy.states() == {"resolved": 1}
    after = verify()
    assert (before["dead"], after["dead"], after["missing"]) == (1, 0, 0)
    assert after["delivered"] == before["delivered"] + 1
    connection = sqlite3.connect(road.mlflow_db, timeout=30)
    held = connection.execute("select value from params where key like '%lr'").fetchall()
    connection.close()
    assert held == [("0.2",)]
