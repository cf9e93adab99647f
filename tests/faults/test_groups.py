"""Many workers of one group, killed, paused and stopped at random: nothing lost, nothing twice.

The sink appends a row per event, so that an event written twice shows.
"""

from __future__ import annotations

import math
import os
import random
import signal
import time

import pytest

from bus.topics import shard_of, slot_of
from tests.faults.appending import AppendedRows, published, start_worker
from tests.faults.road import Road
from tests.fixtures.processes import Process, wait_until

RUNS = 50
TRAINERS = 5
SECONDS = float(os.environ.get("TRAINBUS_CHAOS_SECONDS") or 20)
SHARDS = 8
TAKEOVER_SECONDS = 1.0
SEED = int(os.environ.get("TRAINBUS_CHAOS_SEED") or 1)

WRITER = """
import sys, publishers
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    run = publishers.start_run(project="groups", run_id=f"{sys.argv[1]}{number}")
    for step in range(int(sys.argv[4])):
        run.log({"a": step, "b": step / 2, "c": step / 3, "d": 1.0}, step=step)
        if step % 50 == 0:
            run.tags({"step": str(step)})
    run.finish(timeout=0)
"""


@pytest.mark.timeout(400)
def test_workers_that_die_at_random_lose_nothing_and_write_nothing_twice(road: Road) -> None:
    chance = random.Random(SEED)
    sink = AppendedRows(road.folder / "appended.db")
    road.worker("log")
    workers = [start_worker(road, sink, delay_seconds=0.02) for _ in range(3)]
    per_trainer = RUNS // TRAINERS
    steps = 60_000 // 4 // RUNS
    trainers = [
        road.processes.python(
            *("-c", WRITER, f"chaos-{road.suffix}-", str(n * per_trainer)),
            *(str((n + 1) * per_trainer), str(steps)),
            environ=road.environ,
        )
        for n in range(TRAINERS)
    ]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(chance.uniform(0.3, 1.5))
        index = chance.randrange(len(workers))
        workers[index] = _disturb(road, sink, workers[index], chance)
    for trainer in trainers:
        assert trainer.wait(120) == 0
    wait_until(lambda: not any(road.spool.glob("sources/[!.]*")), 60, "an empty spool")
    sent = published(road)
    wait_until(lambda: len(sink.rows()) >= len(sent), 90, "all events in the sink")
    rows = sink.rows()
    assert sink.written() == sent, f"seed {SEED}"
    assert sum(points for *_, points in rows) == RUNS * steps * 4
    per_source: dict[str, list[int]] = {}
    for _, source, number, _ in rows:
        per_source.setdefault(source, []).append(number)
    assert len(per_source) == RUNS
    assert all(numbers == sorted(numbers) for numbers in per_source.values()), f"seed {SEED}"


def _disturb(road: Road, sink: AppendedRows, worker: Process, chance: random.Random) -> Process:
    """Kill, stop or pause a worker; gives the one that takes its place."""
    what = chance.choice(["kill", "terminate", "pause"])
    if what == "kill":
        worker.kill()
        return start_worker(road, sink, delay_seconds=0.02)
    if what == "terminate":
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) in {0, -signal.SIGTERM}
        return start_worker(road, sink, delay_seconds=0.02)
    worker.send_signal(signal.SIGSTOP)
    time.sleep(chance.uniform(0.2, 3.0))
    worker.send_signal(signal.SIGCONT)
    return worker


def test_a_new_owner_writes_within_a_second_of_a_kill(mosquitto_road: Road) -> None:
    road = mosquitto_road
    sink = AppendedRows(road.folder / "appended.db")
    road.worker("log")
    workers = [_start_beside(road, sink, SHARDS)]
    # A run in each shard, so that whoever dies has some.
    names = {shard_of(slot_of(road.run_id(f"run{n}")), SHARDS): f"run{n}" for n in range(200)}
    trainers = [road.trainer(name, "--steps", "3000", "--pace", "0.02") for name in names.values()]
    wait_until(lambda: len({run for run, *_ in sink.rows()}) == SHARDS, 60, "rows of all runs")
    seconds: list[float] = []
    # Several times, since other work on the machine may take a second of its own.
    while len(seconds) < 4 and min(seconds, default=math.inf) >= TAKEOVER_SECONDS:
        workers.append(_start_beside(road, sink, SHARDS // 2))
        seconds.append(_takeover_seconds(sink, workers.pop(0)))
    assert min(seconds) < TAKEOVER_SECONDS, seconds
    for trainer in trainers:
        trainer.kill()


def _start_beside(road: Road, sink: AppendedRows, shards: int) -> Process:
    """Start a worker beside those there are; back when it has so many shards."""
    before = _sessions_opened(road)
    worker = start_worker(road, sink)
    wait_until(lambda: _sessions_opened(road) >= before + shards, 30, "its shards")
    return worker


def _takeover_seconds(sink: AppendedRows, worker: Process) -> float:
    """Kill a worker; how long until all runs go on, those of its shards too."""
    time.sleep(2.0)
    worker.kill()
    killed = time.time()
    wait_until(
        lambda: len(sink.firsts_since(killed)) == SHARDS, 20, "rows of all runs after the kill"
    )
    return max(sink.firsts_since(killed).values()) - killed


def _sessions_opened(road: Road) -> int:
    """How often a session of the group was connected to."""
    return road.broker.log_file.read_text(errors="replace").count(" as trainbus-v1-appending-")


def test_a_group_that_starts_late_gets_old_and_live_events_without_a_seam(road: Road) -> None:
    sink = AppendedRows(road.folder / "appended.db")
    road.worker("log")
    assert road.trainer("old", "--steps", "100").wait(60) == 0
    trainer = road.trainer("live", "--steps", "800", "--pace", "0.01")
    wait_until(lambda: sum(road.in_log("live").values()) > 100, 30, "the live run")
    start_worker(road, sink, "--backfill")
    assert trainer.wait(60) == 0
    wait_until(lambda: len(sink.rows()) >= len(published(road)), 60, "all events")
    rows = sink.rows()
    assert sink.written() == published(road)
    for source in {source for _, source, _, _ in rows}:
        numbers = [number for _, one, number, _ in rows if one == source]
        assert numbers == list(range(1, len(numbers) + 1))
