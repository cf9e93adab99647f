"""``trainbus stop`` over real brokers: every process sees it, whoever is killed meanwhile."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bus.broker import EmbeddedBroker
from bus.errors import LogError
from bus.eventlog import EventLog
from publishers.stopping import read_note
from tests.faults.road import Road
from tests.fixtures.processes import Process, Processes, wait_until

CRASH = str(Path(__file__).with_name("crash.py"))
STOPPABLE = str(Path(__file__).with_name("stoppable.py"))


class Node:
    """One machine of a run: a spool, its shipper, and a training process."""

    def __init__(self, road: Road, rank: int) -> None:
        self.road = road
        self.rank = rank
        self.spool = road.folder / f"spool-{rank}"
        self.environ = {
            **road.environ,
            "TRAINBUS_SPOOL": str(self.spool),
            "TRAINBUS_NODE": f"node-{rank}",
            "TRAINBUS_SHIPPER": "off",
        }

    def train(self, run: str, *, finish_seconds: float = 10.0, **environ: str) -> Process:
        """Start the rank of this node; there are two."""
        place = {"TRAINBUS_RANK": str(self.rank), "TRAINBUS_WORLD": "2", "TRAINBUS_NODES": "2"}
        trainer = self.road.processes.python(
            *(STOPPABLE, self.road.run_id(run), str(finish_seconds)),
            environ={**self.environ, **place, **environ},
            name=f"{run}-{self.rank}",
        )
        wait_until(lambda: "started" in trainer.stdout, 30, "the trainer")
        return trainer

    def ship(self) -> Process:
        """Start the shipper."""
        return self.road.processes.python(
            *("-m", "publishers.shipper", str(self.spool)), environ=self.environ, name="shipper"
        )

    def crashing_shipper(self, place: str, when: str) -> Process:
        """Start a shipper that dies at a line."""
        return self.road.processes.python(
            *(CRASH, place, when, "1", "--", "publishers.shipper", str(self.spool)),
            environ=self.environ,
            name="crashing",
        )

    def has_note(self) -> bool:
        return any(read_note(folder) for folder in (self.spool / "sources").glob("[!.]*"))


@pytest.fixture
def stop_road(tmp_path: Path, broker: EmbeddedBroker, processes: Processes) -> Iterator[Road]:
    """A road over each broker that ends at the event log."""
    built = Road(tmp_path, broker, processes)
    yield built
    built.close()


def ask(road: Road, run: str, *options: str, environ: dict[str, str] | None = None) -> Process:
    arguments = ("stop", road.run_id(run), "--reason", "loss diverged", *options)
    return road.processes.trainbus(*arguments, environ={**road.environ, **(environ or {})})


def seen(trainer: Process) -> dict[str, Any]:
    """What a trainer that has ended said."""
    assert trainer.wait(30) == 0, trainer.stderr
    found: dict[str, Any] = json.loads(trainer.stdout.splitlines()[-1])
    return found


def goes_on(trainer: Process) -> None:
    """Wait until a training has looked a few times, and has seen nothing."""
    before = trainer.stdout.count("going on")
    wait_until(lambda: trainer.stdout.count("going on") >= before + 3, 30, "it goes on")
    assert trainer.is_running


def wait_in_log(road: Road, run: str, sources: int = 2) -> None:
    """Wait until the log knows all processes of a run."""

    def known() -> bool:
        try:
            log = EventLog.open(road.log_url, create=False)
        except LogError:
            return False
        with log:
            return len(log.sources(road.run_id(run))) >= sources

    wait_until(known, 60, "the run in the log")


def test_the_processes_on_all_nodes_see_it_within_two_seconds(stop_road: Road) -> None:
    road = stop_road
    road.worker("log")
    nodes = [Node(road, rank) for rank in (0, 1)]
    trainers = [node.train("both") for node in nodes]
    for node in nodes:
        node.ship()
    wait_in_log(road, "both")
    command = ask(road, "both")
    for trainer in trainers:
        found = seen(trainer)
        assert found["reason"] == "loss diverged"
        assert found["seen_at"] - found["asked_at"] < 2.0
    assert command.wait(30) == 0
    assert "2 processes on 2 nodes told to stop" in command.stdout


def test_a_shipper_killed_before_the_notice_delivers_it_when_it_is_back(stop_road: Road) -> None:
    road = stop_road
    road.worker("log")
    nodes = [Node(road, rank) for rank in (0, 1)]
    trainers = [node.train("before") for node in nodes]
    shippers = [node.ship() for node in nodes]
    wait_in_log(road, "before")
    shippers[1].kill()
    command = ask(road, "before")
    assert seen(trainers[0])["reason"] == "loss diverged"
    assert trainers[1].is_running
    back_at = time.time()
    nodes[1].ship()
    assert seen(trainers[1])["seen_at"] - back_at < 6.0
    assert command.wait(30) == 0, command.stderr


@pytest.mark.parametrize(
    ("place", "when"),
    [
        pytest.param("publishers.shipper.stopnotes:StopNotes.hear", "after", id="only-heard"),
        pytest.param("pathlib:Path.rename", "before", id="between-write-and-rename"),
        pytest.param("publishers.shipper.stopnotes:StopNotes._write", "after", id="written"),
    ],
)
def test_a_shipper_killed_at_a_line_loses_no_notice(stop_road: Road, place: str, when: str) -> None:
    road = stop_road
    road.worker("log")
    nodes = [Node(road, rank) for rank in (0, 1)]
    trainers = [node.train("line") for node in nodes]
    nodes[0].ship()
    crashing = nodes[1].crashing_shipper(place, when)
    wait_in_log(road, "line")
    command = ask(road, "line")
    assert crashing.wait(30) == -signal.SIGKILL
    nodes[1].ship()
    for trainer in trainers:
        assert seen(trainer)["reason"] == "loss diverged"
    assert command.wait(30) == 0, command.stderr
    assert "2 processes on 2 nodes" in command.stdout


def test_a_notice_while_the_shippers_connect_again_is_not_lost(stop_road: Road) -> None:
    road = stop_road
    road.worker("log")
    nodes = [Node(road, rank) for rank in (0, 1)]
    trainers = [node.train("again") for node in nodes]
    for node in nodes:
        node.ship()
    wait_in_log(road, "again")
    road.broker.kill()
    road.broker.start()
    command = ask(road, "again")
    for trainer in trainers:
        assert seen(trainer)["reason"] == "loss diverged"
    assert command.wait(30) == 0, command.stderr


def test_a_training_started_again_goes_on_while_the_old_one_is_still_being_asked(
    mosquitto_road: Road,
) -> None:
    road = mosquitto_road
    road.worker("log")
    nodes = [Node(road, rank) for rank in (0, 1)]
    trainers = [node.train("anew", finish_seconds=1.0) for node in nodes]
    shippers = [node.ship() for node in nodes]
    wait_in_log(road, "anew")
    # Its process stays unconfirmed, so that the command goes on asking.
    shippers[1].kill()
    command = ask(road, "anew", "--wait", "8")
    assert seen(trainers[0])["reason"] == "loss diverged"
    again = nodes[0].train("anew", finish_seconds=1.0)
    requeued = nodes[0].train("anew", finish_seconds=1.0, TRAINBUS_ATTEMPT="2")
    assert command.wait(30) == 1
    assert "1 process on 1 node told to stop" in command.stdout
    assert "not told: rank 1 on node-1: no shipper serves it" in command.stderr
    goes_on(again)
    goes_on(requeued)
    # The next request is for them.
    nodes[1].ship()
    assert ask(road, "anew").wait(30) == 0
    for trainer in (again, requeued, trainers[1]):
        assert seen(trainer)["reason"] == "loss diverged"


def test_a_note_left_in_the_spool_is_not_for_the_next_training(mosquitto_road: Road) -> None:
    road = mosquitto_road
    # Without a log worker the journal stays, and the note with it.
    node = Node(road, 0)
    environ = {"TRAINBUS_LOG": f"sqlite:///{road.folder / 'none.db'}"}
    first = node.train("left", finish_seconds=0.0)
    shipper = node.ship()
    # No log says when the shipper is there: until it is heard there is nobody to ask.
    wait_until(
        lambda: ask(road, "left", "--project", "faults", environ=environ).wait(30) == 0,
        60,
        "a shipper",
    )
    assert seen(first)["reason"] == "loss diverged"
    assert "note: the event log is not asked" in road.processes.started[-1].stderr
    assert node.has_note()
    shipper.kill()
    second = node.train("left", finish_seconds=0.0)
    node.ship()
    goes_on(second)
    wait_until(
        lambda: ask(road, "left", "--project", "faults", environ=environ).wait(30) == 0,
        60,
        "the other shipper",
    )
    assert seen(second)["reason"] == "loss diverged"


def test_the_shipper_that_the_training_starts_delivers_it_too(mosquitto_road: Road) -> None:
    road = mosquitto_road
    road.worker("log")
    trainer = road.processes.python(
        *(STOPPABLE, road.run_id("own"), "10"), environ=road.environ, name="own"
    )
    first = road.shipper_pid()
    wait_in_log(road, "own", 1)
    road.kill_shipper()
    command = ask(road, "own")
    assert seen(trainer)["reason"] == "loss diverged"
    assert road.shipper_pid() != first
    assert command.wait(30) == 0, command.stderr


def test_a_run_that_has_ended_or_is_unknown_is_a_clear_error(mosquitto_road: Road) -> None:
    road = mosquitto_road
    road.worker("log")
    assert road.trainer("over", "--steps", "5").wait(60) == 0
    ended = ask(road, "over")
    assert ended.wait(30) == 1
    assert "has ended (completed): nobody to ask" in ended.stderr
    unknown = ask(road, "nobody", "--project", "faults")
    assert unknown.wait(30) == 2
    assert "neither the event log nor any node knows it" in unknown.stderr


def test_a_broker_that_keeps_shippers_from_control_gets_the_events_all_the_same(
    tmp_path: Path, nats: EmbeddedBroker, processes: Processes
) -> None:
    nats.stop()
    engine = nats._engine
    nats._engine = replace(
        engine, settings=lambda port, data: engine.settings(port, data) + _NO_CONTROL
    )
    nats.start()
    road = Road(tmp_path, nats, processes)
    road.worker("log")
    node = Node(road, 0)
    trainer = node.train("kept", finish_seconds=0.0)
    shipper = node.ship()
    wait_in_log(road, "kept", 1)
    assert shipper.stderr.count("runs cannot be asked to stop from outside") == 1
    command = ask(road, "kept", "--wait", "4")
    assert command.wait(30) == 1
    assert "not told: rank 0 on node-0: its shipper did not confirm" in command.stderr
    assert trainer.is_running


_NO_CONTROL = """
no_auth_user: anybody
authorization {
  users = [{
    user: anybody
    password: none
    permissions: { subscribe: { deny: "trainbus.v1.control.>" } }
  }]
}
"""
