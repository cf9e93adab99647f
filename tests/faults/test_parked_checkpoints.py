"""Checkpoints that wait for tokens of their kind, with real workers that are killed meanwhile."""

from __future__ import annotations

import sqlite3
from functools import partial

from bus.eventlog import EventLog, Selection
from bus.events import Event, decode
from bus.idranges import IdRanges
from bus.kinds import Checkpoint
from tests.faults.appending import AppendedRows, start_worker
from tests.faults.road import Road
from tests.fixtures.processes import wait_until

LIMIT = ("--kind-rate", "checkpoint=30/min")
"""A token in 2 s; a worker begins without one, but for a run that is new to the sink."""

WRITER = """
import sys, time, pathlib, publishers
run = publishers.start_run(project="parked", run_id=sys.argv[1])
weights = pathlib.Path(sys.argv[2])
for epoch in range(40):
    run.log({"a": epoch}, step=epoch)
    weights.write_bytes(b"weights %d" % epoch)
    run.checkpoint(weights, epoch=epoch, best=epoch in (3, 17, 31))
    time.sleep(0.15)
run.checkpoint(weights, epoch=40, final=True)
run.finish(timeout=10)
"""


def test_workers_killed_while_checkpoints_wait_lose_none_that_counts(mosquitto_road: Road) -> None:
    road = mosquitto_road
    sink = AppendedRows(road.folder / "appended.db")
    road.worker("log")
    worker = start_worker(road, sink, *LIMIT)
    run = road.run_id("parked")
    arguments = ("-c", WRITER, run, str(road.folder / "last.pt"))
    trainer = road.processes.python(*arguments, environ=road.environ)
    for metrics in (6, 12, 18, 24):
        # They come while most of the checkpoints wait.
        wait_until(partial(has_written, road, sink, metrics), 30, f"{metrics} metrics")
        worker.kill()
        worker = start_worker(road, sink, *LIMIT)
    assert trainer.wait(60) == 0
    wait_until(lambda: written(road, sink, "run_finished"), 60, "the end of the run")
    rows = sink.rows()
    events = {event.id: event for event in logged(road)}
    assert len(rows) == len({(source, number) for _, source, number, _ in rows})
    assert rows[-1][2] == max(events), "the end came last"
    left_out = events.keys() - {number for _, _, number, _ in rows}
    assert {events[number].kind for number in left_out} == {"checkpoint"}
    uploaded = [one for event in written(road, sink, "checkpoint") if (one := _checkpoint(event))]
    assert max(one.epoch or 0 for one in uploaded if one.is_best) == 31
    assert any(one.is_final for one in uploaded)
    assert len(uploaded) < 30
    assert applied(sink) == IdRanges([(1, max(events))])


def has_written(road: Road, sink: AppendedRows, metrics: int) -> bool:
    return len(written(road, sink, "metrics")) >= metrics


def logged(road: Road) -> list[Event]:
    log = EventLog.open(road.log_url)
    try:
        return [decode(one.raw) for one in log.select(Selection(run=road.run_id("parked")))]
    finally:
        log.close()


def written(road: Road, sink: AppendedRows, kind: str) -> list[Event]:
    """The events of a kind that the sink has."""
    numbers = {number for _, _, number, _ in sink.rows()}
    return [event for event in logged(road) if event.kind == kind and event.id in numbers]


def applied(sink: AppendedRows) -> IdRanges:
    """What the marks of the only run call applied."""
    connection = sqlite3.connect(sink.path)
    try:
        ((text,),) = connection.execute("select applied from marks").fetchall()
    finally:
        connection.close()
    return IdRanges.parse(text.split("\t")[1])


def _checkpoint(event: Event) -> Checkpoint | None:
    return event.data if isinstance(event.data, Checkpoint) else None
