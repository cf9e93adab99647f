"""A node that nobody hears any more: the log group ends its part of the run, and takes it back."""

from __future__ import annotations

import os
import signal

from tests.faults.road import Road
from tests.fixtures.processes import wait_until


def test_a_run_whose_node_is_gone_ends_as_killed_after_the_grace_period(road: Road) -> None:
    road.worker("log", "--grace", "2")
    road.worker("mlflow")
    trainer = road.trainer("gone", "--steps", "2000", "--pace", "0.01")
    _wait_points(road, "gone", 100)
    # The machine: the trainer would start another shipper.
    trainer.kill()
    road.kill_shipper()
    assert road.status_in_mlflow("gone") == "RUNNING"
    road.wait_ended("gone", "KILLED", 20)
    # The machine is back, and its spool is delivered: the run stays killed, and is whole.
    ship = road.processes.trainbus("ship", "--once", environ=road.environ)
    assert ship.wait(30) == 0
    road.wait_arrived("gone")
    road.wait_ended("gone", "KILLED")


def test_a_run_reopens_when_its_node_comes_back(mosquitto_road: Road) -> None:
    road = mosquitto_road
    road.worker("log", "--grace", "2")
    road.worker("mlflow")
    trainer = road.trainer("back", "--steps", "1200", "--pace", "0.01", "--timeout", "30")
    _wait_points(road, "back", 100)
    shipper = road.shipper_pid()
    # Stopped, it holds the lock of the spool and says nothing: a node whose link is cut.
    os.kill(shipper, signal.SIGSTOP)
    road.wait_ended("back", "KILLED", 20)
    os.kill(shipper, signal.SIGCONT)
    road.wait_ended("back", "RUNNING", 20)
    assert trainer.wait(60) == 0
    road.wait_arrived("back")
    road.wait_ended("back", "FINISHED")


def test_a_job_that_was_requeued_on_another_node_ends_as_that_one_does(
    mosquitto_road: Road,
) -> None:
    road = mosquitto_road
    road.worker("log", "--grace", "2")
    road.worker("mlflow")
    first = road.trainer("queue", "--steps", "2000", "--pace", "0.01")
    _wait_points(road, "queue", 50)
    first.kill()
    road.kill_shipper()
    road.truth_file("queue").unlink()
    second = road.trainer(
        "queue",
        *("--steps", "50"),
        environ={
            "TRAINBUS_ATTEMPT": "2",
            "TRAINBUS_NODE": "other",
            "TRAINBUS_SPOOL": str(road.folder / "spool of the other"),
        },
    )
    assert second.wait(60) == 0
    road.wait_ended("queue", "FINISHED")
    # The word about the first node changes nothing: the second attempt counts.
    wait_until(lambda: "is lost" in road.processes.started[0].stderr, 20, "the word")
    road.wait_ended("queue", "FINISHED")


def _wait_points(road: Road, run: str, least: int) -> None:
    wait_until(lambda: sum(road.in_mlflow(run).values()) >= least, 60, f"{least} points")
