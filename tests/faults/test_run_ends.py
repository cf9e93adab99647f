"""How a command under ``trainbus run`` ended, as the event log has it in the end."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from bus.errors import LogError
from bus.eventlog import EventLog, Selection
from bus.events import Event, decode
from bus.kinds import Console, RunFinished, RunStarted, System
from publishers.wrapper.channel import WRAPPER_RANK
from tests.faults.road import Road
from tests.fixtures.processes import Process, wait_until

HERE = Path(__file__).parent
TRAIN = [sys.executable, str(HERE / "wrapped.py")]
LEFT = "the process ended without finishing its run"


class Wrapped:
    """Commands under ``trainbus run``, over one road."""

    def __init__(self, road: Road) -> None:
        self.road = road
        self.road.worker("log")
        self.road.wait_working("log")

    def start(self, run: str, *arguments: str) -> Process:
        """Start a command; options of the wrapper stand before ``--``."""
        named = ("--run-id", self.road.run_id(run), "--project", "faults")
        return self.road.processes.trainbus("run", *named, *arguments, environ=self.road.environ)

    def events(self, run: str) -> list[Event]:
        """Everything the event log holds of a run."""
        try:
            log = EventLog.open(self.road.log_url, create=False)
        except LogError:
            return []
        try:
            selected = log.select(Selection(run=self.road.run_id(run)))
            return [decode(logged.raw) for logged in selected]
        finally:
            log.close()

    def ends(self, run: str, count: int = 1, seconds: float = 30.0) -> list[tuple[str, str]]:
        """Status and error of each process's end."""

        def found() -> list[tuple[str, str]]:
            datas = [event.data for event in self.events(run)]
            ends = [data for data in datas if isinstance(data, RunFinished)]
            return [(end.status, end.error) for end in ends if end.rank != WRAPPER_RANK]

        wait_until(lambda: len(found()) >= count, seconds, f"{count} ends of {run}")
        return found()

    def status(self, run: str) -> str | None:
        """How the run ended, as ``trainbus log ls`` shows it."""
        listed = self.road.processes.trainbus("log", "ls", "--json", environ=self.road.environ)
        assert listed.wait() == 0
        (row,) = [r for r in json.loads(listed.stdout) if r["run"] == self.road.run_id(run)]
        return str(row["status"]) if row["status"] else None


@pytest.fixture
def wrapped(mosquitto_road: Road) -> Wrapped:
    return Wrapped(mosquitto_road)


@pytest.mark.parametrize(
    ("how", "status", "end"),
    [
        (["exit", "0"], 0, ("completed", "")),
        (["exit", "3"], 3, ("failed", "the command exited with status 3")),
        (["hard-exit", "0"], 0, ("completed", "")),
        (["hard-exit", "4"], 4, ("failed", "the command exited with status 4")),
        (["raise"], 1, ("failed", "ValueError: the loss is no number")),
        (["finish", "5"], 5, ("completed", "")),
        (["kill"], -signal.SIGKILL, ("killed", "killed by SIGKILL")),
    ],
)
def test_the_run_ends_as_the_command_did(
    wrapped: Wrapped, how: list[str], status: int, end: tuple[str, str]
) -> None:
    process = wrapped.start("r", "--", *TRAIN, *how)
    assert process.wait(30) == status
    # It is in the log when the wrapper returns: that waited for it.
    assert wrapped.ends("r", seconds=1.0) == [end]
    assert wrapped.status("r") == end[0]
    assert not process.stderr or "Traceback" in process.stderr


def test_a_command_out_of_memory_is_told_so(mosquitto_road: Road) -> None:
    wrapped, counter = Wrapped(mosquitto_road), mosquitto_road.folder / "memory.events"
    counter.write_text("oom_kill 5\n")
    process = mosquitto_road.processes.python(
        *(str(HERE / "runwrapper.py"), str(counter), "--run-id", mosquitto_road.run_id("r")),
        *("--", *TRAIN, "oom", str(counter)),
        environ=mosquitto_road.environ,
    )
    assert process.wait(30) == -signal.SIGKILL
    assert wrapped.ends("r") == [("killed", "killed by the kernel: out of memory (SIGKILL)")]


def test_a_terminated_command_is_told_by_its_signal(wrapped: Wrapped) -> None:
    process = wrapped.start("r", "--", *TRAIN, "sleep")
    wait_until(lambda: "training" in process.stdout, 30, "the training")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    assert wrapped.ends("r") == [("killed", "killed by SIGTERM")]


def test_a_script_that_goes_on_speaks_for_none_of_its_processes(wrapped: Wrapped) -> None:
    script = f"{' '.join(TRAIN)} kill; sleep 1; exit 0"
    process = wrapped.start("r", "--", "bash", "-c", script)
    assert process.wait(30) == 0
    assert wrapped.ends("r") == [("killed", LEFT)]


@pytest.mark.slow
def test_a_process_that_did_well_has_ended_before_its_command(wrapped: Wrapped) -> None:
    script = f"{' '.join(TRAIN)} exit 0; sleep 60"
    process = wrapped.start("r", "--", "bash", "-c", script)
    assert wrapped.ends("r", seconds=40) == [("completed", "")]
    assert process.is_running


@pytest.mark.slow
def test_a_killed_wrapper_leaves_all_as_without_it(wrapped: Wrapped) -> None:
    process = wrapped.start("r", "--console", "--", *TRAIN, "sleep")
    wait_until(lambda: "training" in process.stdout, 30, "the training")
    wait_until(lambda: _lines(wrapped.events("r")), 30, "a line in the log")
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    # The wrapper's own journal has ended, and the training goes on.
    wait_until(lambda: _wrapper_ends(wrapped.events("r")), 30, "the end of the wrapper")
    assert wrapped.status("r") in (None, "running")
    os.kill(int(child), signal.SIGKILL)
    assert wrapped.ends("r", seconds=40) == [("killed", LEFT)]
    assert wrapped.status("r") == "killed"


def test_what_a_command_prints_is_in_the_run_it_starts(wrapped: Wrapped) -> None:
    script = f"echo before; {' '.join(TRAIN)} exit 0; echo after >&2; exit 6"
    process = wrapped.start("r", "--console", "--system", "--", "bash", "-c", script)
    assert process.wait(30) == 6
    assert process.stdout == "before\ntraining\n"
    assert process.stderr == "after\n"
    events = wrapped.events("r")
    assert sorted(_lines(events)) == ["after", "before", "training"]
    assert any(isinstance(event.data, System) for event in events)
    # One process started the run, and it alone decides how that ended.
    assert sum(isinstance(event.data, RunStarted) for event in events) == 1
    assert wrapped.ends("r") == [("failed", "the command exited with status 6")]
    assert wrapped.status("r") == "failed"


def test_a_command_that_starts_no_run_has_one_when_its_lines_are_asked_for(
    wrapped: Wrapped,
) -> None:
    process = wrapped.start("r", "--console", "--", "bash", "-c", "echo hello; exit 2")
    assert process.wait(30) == 2
    assert wrapped.ends("r", seconds=2.0) == [("failed", "the command exited with status 2")]
    assert _lines(wrapped.events("r")) == ["hello"]
    assert wrapped.status("r") == "failed"


def test_trackers_and_the_receipt_see_the_end_of_the_training_alone(wrapped: Wrapped) -> None:
    road = wrapped.road
    road.worker("mlflow")
    script = f"{' '.join(TRAIN)} exit 0; exit 6"
    process = wrapped.start("r", "--console", "--system", "--", "bash", "-c", script)
    assert process.wait(30) == 6
    road.wait_ended("r", "FAILED")
    verified = road.processes.trainbus("verify", road.run_id("r"), environ=road.environ)
    assert verified.wait(30) == 0, verified.stdout


def test_a_run_whose_wrapper_prints_can_be_asked_to_stop(wrapped: Wrapped) -> None:
    process = wrapped.start("r", "--console", "--", *TRAIN, "until-stopped")
    wait_until(lambda: _lines(wrapped.events("r")), 30, "a line in the log")
    asked = wrapped.road.processes.trainbus(
        "stop", wrapped.road.run_id("r"), environ=wrapped.road.environ
    )
    assert asked.wait(30) == 0, asked.stderr
    assert process.wait(30) == 0
    assert wrapped.ends("r") == [("completed", "")]


def test_nobody_to_store_it_holds_the_command_up_for_ten_seconds_and_no_longer(
    mosquitto_road: Road,
) -> None:
    began = time.monotonic()
    process = mosquitto_road.processes.trainbus(
        "run", "--project", "p", "--", *TRAIN, "kill", environ=mosquitto_road.environ
    )
    assert process.wait(40) == -signal.SIGKILL
    assert 9.0 < time.monotonic() - began < 20.0


def _lines(events: list[Event]) -> list[str]:
    return [line for e in events if isinstance(e.data, Console) for line in e.data.lines]


def _wrapper_ends(events: list[Event]) -> list[Event]:
    return [e for e in events if isinstance(e.data, RunFinished) and e.data.rank == WRAPPER_RANK]
