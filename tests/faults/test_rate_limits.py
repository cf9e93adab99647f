"""Rate limits of real workers: the group keeps them, and who waits holds up nobody."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.broker import EmbeddedBroker
from tests.faults.road import Road
from tests.fixtures.processes import Process, Processes, wait_until

SINKS = str(Path(__file__).with_name("sinks"))

WRITER = """
import sys, time, publishers
project, first, last, steps, pace = sys.argv[1], *map(float, sys.argv[2:])
for number in range(int(first), int(last)):
    run = publishers.start_run(project=project, run_id=f"{project}-{number}")
    for step in range(int(steps)):
        run.log({"a": step}, step=step)
        time.sleep(pace)
    run.finish(timeout=0)
"""

RATE, BURST, RUNS = 15.0, 8, 60


@pytest.fixture
def plain_road(tmp_path: Path, broker: EmbeddedBroker, processes: Processes) -> Iterator[Road]:
    """A road over each broker, with SQLite."""
    built = Road(tmp_path, broker, processes)
    yield built
    built.close()


class Calls:
    """What the counting sink was asked."""

    def __init__(self, road: Road) -> None:
        self.road = road
        self.path = road.folder / "calls.jsonl"

    def worker(self, *options: str, refuses: str = "", **environ: str) -> Process:
        """Start a worker of the counting sink."""
        settings = {
            **self.road.environ,
            **environ,
            "PYTHONPATH": f"{self.road.environ['PYTHONPATH']}:{SINKS}",
            "COUNTING_SINK_FILE": str(self.path),
            "COUNTING_SINK_REFUSES": refuses,
        }
        arguments = ("worker", "counting", "--heartbeat", "0.3", "-v", *options)
        return self.road.processes.trainbus(*arguments, environ=settings)

    def write(
        self, project: str, runs: tuple[int, int], steps: int = 10, pace: float = 0.0
    ) -> Process:
        """Start a process that trains some runs, one after the other."""
        words = (project, *map(str, runs), str(steps), str(pace))
        return self.road.processes.python("-c", WRITER, *words, environ=self.road.environ)

    def made(self, call: str = "", run: str = "") -> list[dict[str, Any]]:
        """The calls so far, of one sort or run if one is named."""
        text = self.path.read_text() if self.path.exists() else ""
        calls = [json.loads(line) for line in text.splitlines()]
        return [c for c in calls if call in {"", c["call"]} and run in {"", c["run"]}]

    def wait_written(self, run: str) -> None:
        """Wait until something of a run was written."""
        wait_until(lambda: self.made("write", run), 10, run)


@pytest.mark.slow
def test_two_workers_keep_the_limit_of_the_group_while_shards_move(mosquitto_road: Road) -> None:
    calls = Calls(mosquitto_road)
    mosquitto_road.worker("log")
    options = ("--rate", f"{RATE:g}/s", "--burst", str(BURST))
    first = calls.worker(*options)
    calls.write("limited", (0, RUNS), steps=2)
    wait_until(lambda: len(calls.made()) >= 10, 20, "calls of one")
    calls.worker(*options)
    wait_until(lambda: len(calls.made()) >= 95, 30, "calls of both")
    first.kill()
    wait_until(lambda: len({c["run"] for c in calls.made("write")}) == RUNS, 30, "all runs")
    assert_within(calls, RATE, BURST)


def assert_within(calls: Calls, rate: float, burst: float) -> None:
    """In no stretch of time more calls than the limit lets through."""
    times = sorted(call["at"] for call in calls.made())
    assert len(times) >= 40
    for first in range(len(times)):
        for last in range(first, len(times)):
            # A process may be held up for a moment between its token and its call.
            allowed = rate * (times[last] - times[first] + 0.3) + burst
            assert last - first + 1 <= allowed, (times[first], times[last], last - first + 1)


def test_a_run_that_waits_for_its_tokens_holds_up_no_other_of_its_shard(
    plain_road: Road,
) -> None:
    calls = Calls(plain_road)
    plain_road.worker("log", "--shards", "1")
    calls.worker("--shards", "1", TRAINBUS_COUNTING_RUN_RATE="4/hour")
    # Some sixty events in 3 s: more than a broker delivers before it wants acknowledgements.
    slow = calls.write("slow", (0, 1), steps=60, pace=0.05)
    wait_until(lambda: calls.made("write", "slow-0"), 20, "the first write")
    assert slow.wait(60) == 0
    began = time.time()
    assert calls.write("quick", (0, 3)).wait(60) == 0
    for number in range(3):
        calls.wait_written(f"quick-{number}")
    assert time.time() - began < 10
    assert len(calls.made("write", "slow-0")) == 1


def test_a_project_that_refuses_writes_holds_up_no_other_of_its_shard(
    mosquitto_road: Road,
) -> None:
    calls = Calls(mosquitto_road)
    mosquitto_road.worker("log", "--shards", "1")
    calls.worker("--shards", "1", refuses="refused")
    assert calls.write("refused", (0, 12), steps=30).wait(60) == 0
    wait_until(lambda: len({c["run"] for c in calls.made()}) >= 5, 20, "refused runs")
    assert calls.write("good", (0, 3)).wait(60) == 0
    for number in range(3):
        calls.wait_written(f"good-{number}")
    assert calls.made("write", "refused-0") == []
