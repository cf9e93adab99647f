"""A run that its tracker wants stopped is stopped, also when its shipper is away just then."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from bus.eventlog import EventLog
from tests.faults.road import Road
from tests.faults.test_rate_limits import Calls
from tests.fixtures.processes import Process, wait_until

STOPPABLE = str(Path(__file__).with_name("stoppable.py"))


def stoppable(road: Road, run: str) -> Process:
    """Start a training that goes on until it is asked to stop."""
    trainer = road.processes.python(STOPPABLE, run, "20", environ=road.environ, name=run)
    wait_until(lambda: "started" in trainer.stdout, 20, "the training")
    return trainer


def is_in_log(road: Road, run: str) -> bool:
    """Whether the event log has heard of a run."""
    log = EventLog.open(road.log_url)
    try:
        return bool(log.runs_under_way(0.0, ("faults", run)))
    finally:
        log.close()


def reason_of(trainer: Process) -> str:
    """Why it stopped."""
    assert trainer.wait(60) == 0
    reason = json.loads(trainer.stdout.splitlines()[-1])["reason"]
    assert isinstance(reason, str)
    return reason


def test_a_run_that_the_tracker_wants_stopped_stops(mosquitto_road: Road) -> None:
    road, calls = mosquitto_road, Calls(mosquitto_road)
    road.worker("log")
    calls.worker(COUNTING_SINK_PAUSE="faults:0.5")
    assert "too many requests" in reason_of(stoppable(road, "r1"))


@pytest.mark.slow
def test_a_run_whose_shipper_was_away_when_the_tracker_spoke_stops_all_the_same(
    mosquitto_road: Road,
) -> None:
    road, calls = mosquitto_road, Calls(mosquitto_road)
    road.worker("log")
    trainer = stoppable(road, "r1")
    wait_until(lambda: is_in_log(road, "r1"), 20, "the run in the log")
    worker = calls.worker(COUNTING_SINK_PAUSE="faults:0.5")

    def has_been_told() -> bool:
        pid = road.find_shipper()
        if pid:
            os.kill(pid, signal.SIGKILL)
        return "is asked to stop" in worker.stderr

    wait_until(has_been_told, 30, "the tracker's word")
    assert "too many requests" in reason_of(trainer)
