"""Real workers keep quiet runs alive, also after one of them was killed."""

from __future__ import annotations

import time

from bus.eventlog import EventLog
from tests.faults.road import Road
from tests.faults.test_rate_limits import Calls
from tests.fixtures.processes import Process, wait_until

QUIET = """
import pathlib, sys, time, publishers
run = publishers.start_run(project="quiet", run_id=sys.argv[1])
run.log({"a": 1.0}, step=0)
while not pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.1)
run.finish()
"""
INTERVAL = 2.0


def quiet_run(road: Road, run: str) -> Process:
    """Start a training that logs once and then says nothing, until the file "end" is there."""
    return road.processes.python("-c", QUIET, run, str(road.folder / "end"), environ=road.environ)


def test_a_quiet_run_is_kept_alive_by_who_takes_its_shard_over_until_it_ends(
    mosquitto_road: Road,
) -> None:
    road, calls = mosquitto_road, Calls(mosquitto_road)
    road.worker("log")
    settings = {"COUNTING_SINK_KEEP_ALIVE": str(INTERVAL)}
    first = calls.worker(**settings)
    trainer = quiet_run(road, "r1")
    wait_until(lambda: len(calls.made("keep_alive", "r1")) >= 3, 30, "keep-alives of the first")
    second = calls.worker(**settings)
    first.kill()
    killed_at = time.time()

    def of_second() -> list[float]:
        return [c["at"] for c in calls.made("keep_alive", "r1") if c["pid"] == second.pid]

    wait_until(lambda: len(of_second()) >= 3, 20, "keep-alives of the second")
    assert of_second()[0] - killed_at < 10
    (road.folder / "end").touch()
    assert trainer.wait(40) == 0
    wait_until(lambda: not _under_way(road), 20, "the end of the run in the log")
    time_seen = time.time() + INTERVAL
    wait_until(lambda: time.time() > time_seen + 2 * INTERVAL, 20)
    assert [at for at in of_second() if at > time_seen] == []


def test_calls_that_hang_hold_up_neither_writes_nor_the_end_of_the_worker(
    mosquitto_road: Road,
) -> None:
    road, calls = mosquitto_road, Calls(mosquitto_road)
    road.worker("log")
    settings = {"COUNTING_SINK_KEEP_ALIVE": "1", "COUNTING_SINK_HANGS": "1"}
    worker = calls.worker(**settings)
    for number in range(6):
        quiet_run(road, f"r{number}")
    wait_until(lambda: len(calls.made("keep_alive")) >= 4, 40, "calls that hang")
    calls.write("busy", (0, 1))
    calls.wait_written("busy-0")
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 5.0


def _under_way(road: Road) -> list[str]:
    log = EventLog.open(road.log_url)
    try:
        return [run.run for run in log.runs_under_way(0.0)]
    finally:
        log.close()
