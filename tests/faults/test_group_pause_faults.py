"""A tracker that asks one worker for a pause gets it from the whole group of real workers."""

from __future__ import annotations

import json
import time

from tests.faults.road import Road
from tests.faults.test_rate_limits import Calls
from tests.fixtures.processes import wait_until

PAUSE_SECONDS = 10.0
ON_ITS_WAY_SECONDS = 0.4
"""A heartbeat may take so long, and a call may have begun just before it came."""


def both_work(calls: Calls) -> bool:
    return len({call["pid"] for call in calls.made("write")}) == 2


def test_a_pause_asked_of_one_worker_is_kept_by_the_other_and_the_run_is_told_to_stop(
    mosquitto_road: Road,
) -> None:
    road, calls = mosquitto_road, Calls(mosquitto_road)
    road.worker("log")
    settings = {"COUNTING_SINK_PAUSE": f"busy:{PAUSE_SECONDS}"}
    workers = [calls.worker(**settings) for _ in range(2)]
    # Runs of all shards that go on: each worker has something to write all the time.
    writers = [calls.write(f"calm{n}", (0, 1), steps=2000, pace=0.05) for n in range(12)]
    wait_until(lambda: both_work(calls), 30, "writes of both workers")
    calls.write("busy", (0, 1), steps=2)
    asked = wait_until(lambda: calls.made(run="busy-0"), 20, "a call for the busy run")[0]
    wait_until(lambda: time.time() > asked["at"] + 1.0, 5, "a second of the pause")
    status = road.processes.trainbus("status", "--json", "--listen", "1", environ=road.environ)
    status.wait()
    wait_until(lambda: calls.made("write", "busy-0"), 30, "a write of the busy run")
    others = [call for call in calls.made() if call["pid"] != asked["pid"]]
    assert {call["pid"] for call in others} < {worker.pid for worker in workers}
    began, ended = asked["at"] + ON_ITS_WAY_SECONDS, asked["at"] + PAUSE_SECONDS - 0.1
    assert [call for call in calls.made() if began < call["at"] < ended] == []
    wait_until(lambda: _goes_on(calls, asked, ended), 20, "writes of the other after the pause")
    assert all(writer.is_running for writer in writers)

    groups = {group["group"]: group for group in json.loads(status.stdout)["groups"]}
    reports = [member["report"] for member in groups["counting"]["members"]]
    assert [report["rate_paused_seconds"] > 0 for report in reports] == [True, True]
    (teller,) = [report for report in reports if report["rate_asked_seconds"] > 0]
    assert teller["sink"] == {"stopped": 1}
    (stop,) = teller["stops"]
    assert (stop["run"], stop["published"]) == ("busy-0", True)


def _goes_on(calls: Calls, asked: dict[str, object], after: float) -> bool:
    return any(c["pid"] != asked["pid"] and c["at"] > after for c in calls.made())
