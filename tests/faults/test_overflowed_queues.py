"""A broker at its default limits, which drops what its queues cannot hold and says nothing."""

from __future__ import annotations

import re
import time
from pathlib import Path

import orjson

from tests.faults.appending import AppendedRows, published, start_worker
from tests.faults.road import Road
from tests.fixtures.processes import wait_until

EVENTS = 5000

WRITER = f"""
import sys, time, pathlib, publishers
run = publishers.start_run(project="p", run_id=sys.argv[1])
for step in range({EVENTS}):
    run.tags({{"step": str(step)}})
while len(sys.argv) > 2 and not pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.02)
run.tags({{"step": "last"}})
run.finish(timeout=60)
"""
LAST_ID = EVENTS + 3
"""With the start, the last tag and the end."""


def _leave_sessions(road: Road, sink: AppendedRows, *options: str) -> None:
    """Have the group work once, so that the broker has its sessions, and then be away."""
    worker = start_worker(road, sink, *options)
    road.wait_working("appending")
    assert road.trainer("seen", "--steps", "10").wait(60) == 0
    wait_until(lambda: sink.rows(), 30, "the first run")
    worker.kill()


def _verify(road: Road, sink: AppendedRows, run: str) -> tuple[int, str, str]:
    """The receipt as the command prints it: exit status, JSON, table."""
    environ = {**road.environ, **sink.environ}
    command = ("verify", run, "--sink", "appending")
    as_json = road.processes.trainbus(*command, "--json", environ=environ)
    as_table = road.processes.trainbus(*command, environ=environ)
    status = as_json.wait(60)
    assert as_table.wait(60) == status
    return status, as_json.stdout, as_table.stdout


def test_what_the_broker_dropped_arrives_from_the_log_and_verify_says_so(
    default_queue_road: Road,
) -> None:
    road = default_queue_road
    sink = AppendedRows(road.folder / "appended.db")
    road.worker("log")
    _leave_sessions(road, sink)
    writer = road.processes.python("-c", WRITER, "many", environ=road.environ)
    assert writer.wait(120) == 0
    status, out, table = _verify(road, sink, "many")
    assert status == 1
    assert orjson.loads(out)["sinks"]["appending"]["missing"] == LAST_ID
    assert "NOT complete" in table
    start_worker(road, sink)
    wait_until(lambda: len(sink.rows()) >= len(published(road)), 60, "all events")
    assert sink.written() == published(road)
    assert [number for run, _, number, _ in sink.rows() if run == "many"] == [
        *range(1, LAST_ID + 1)
    ]
    status, out, table = _verify(road, sink, "many")
    assert status == 0, table
    receipt = orjson.loads(out)
    assert (receipt["published"], receipt["stored"], receipt["missing"]) == (LAST_ID, LAST_ID, 0)
    counts = receipt["sinks"]["appending"]
    assert (counts["delivered"], counts["missing"], counts["dead"]) == (LAST_ID, 0, 0)
    assert "complete: every published event is accounted for" in table


def test_without_the_log_a_worker_names_exactly_what_the_broker_dropped(
    default_queue_road: Road, tmp_path: Path
) -> None:
    road = default_queue_road
    sink = AppendedRows(road.folder / "appended.db")
    road.worker("log")
    _leave_sessions(road, sink, "--no-log")
    go_on = tmp_path / "go-on"
    writer = road.processes.python("-c", WRITER, "many", str(go_on), environ=road.environ)
    before = EVENTS + 1
    wait_until(lambda: _stored(road, "many") == before, 120, "the log has all so far")
    worker = start_worker(road, sink, "--no-log")
    queued = wait_until(lambda: _settled_ids(sink, "many"), 60, "what was queued")
    assert 900 < len(queued) < before
    assert "missing events" not in worker.stderr, "nothing yet shows that there was more"
    go_on.touch()
    assert writer.wait(120) == 0
    wait_until(lambda: "missing events" in worker.stderr, 30, "a report")
    # What it has is in the sink without a hole, so that one range is missing.
    assert queued == list(range(1, len(queued) + 1))
    found = re.findall(r"(\S+): missing events (\d+) to (\d+)", worker.stderr)
    source = next(source for run, source, *_ in sink.rows() if run == "many")
    assert found == [(source, str(len(queued) + 1), str(before))]
    missing = before - len(queued)
    assert _ids(sink, "many") == queued, "what comes after a hole waits"
    status, out, table = _verify(road, sink, "many")
    assert status == 1
    counts = orjson.loads(out)["sinks"]["appending"]
    assert counts["missing"] == missing + 2, table


def _ids(sink: AppendedRows, run: str) -> list[int]:
    return [number for name, _, number, _ in sink.rows() if name == run]


def _settled_ids(sink: AppendedRows, run: str) -> list[int]:
    """The ids of a run; empty as long as more come."""
    before = _ids(sink, run)
    time.sleep(1.0)
    return before if before == _ids(sink, run) else []


def _stored(road: Road, run: str) -> int:
    return sum(
        number
        for (source, _), number in published(road).items()
        if source.startswith(f"/runs/{run}/")
    )
