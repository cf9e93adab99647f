"""Whose run the lines of a command go into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.config import Settings
from publishers import exits, start_run
from publishers.environment import Place
from publishers.lastwords import EndNote
from publishers.wrapper.attached import PATIENCE_SECONDS, READ_SECONDS, Attached
from publishers.wrapper.channel import WRAPPER_RANK
from publishers.wrapper.notes import Journals
from tests.fixtures.spool import Spool

PLACE = Place(run="made", project="folder", name="made", node="box")
FAILED = EndNote("failed", "the command exited with status 3", 5.0)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Wrapper:
    """What goes on beside a command, without one and without threads."""

    def __init__(self, spool: Spool, place: Place | None = PLACE) -> None:
        self.clock = Clock()
        self.spool = spool
        self.attached = Attached(
            Settings.from_environment(),
            place,
            Journals(spool.folder, "w"),
            is_console=False,
            is_system=True,
            clock=self.clock,
        )
        self.attached._publishing = Idle()  # type: ignore[assignment]  # a thread that never runs

    def say(self, *lines: str) -> None:
        self.attached._backlog.add_lines(list(lines))

    def round(self) -> None:
        self.attached._find_channel()
        self.attached._read()
        self.attached._write()

    def finish(self) -> list[Path]:
        return self.attached.finish(FAILED, lambda seconds: False)

    def lines(self) -> dict[tuple[str, str], list[str]]:
        """What was published, by project and run."""
        found: dict[tuple[str, str], list[str]] = {}
        for source in self.spool.sources():
            header = self.spool.payloads(source)[0]
            for record in self.spool.records("console", source):
                key = (header["project"], header["run"])
                found.setdefault(key, []).extend(record["data"]["lines"])
        return found

    def ends(self) -> list[tuple[str, str, int]]:
        """Run, status and rank of every end."""
        return sorted(
            (self.spool.payloads(source)[0]["run"], end["data"]["status"], end["data"]["rank"])
            for source in self.spool.sources()
            for end in self.spool.records("run_finished", source)
        )


class Idle:
    def join(self) -> None:
        return


@pytest.fixture
def wrapper(spool: Spool) -> Iterator[Wrapper]:
    yield Wrapper(spool)
    for ending in list(exits.open_runs()):
        ending.end("killed", "the test is over")
        ending.wait(0.0)


def train(monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> None:
    """Start a run as a process of the command would."""
    with monkeypatch.context() as patched:
        patched.setenv("TRAINBUS_WRAPPER", "w")
        start_run(**arguments)


def test_lines_wait_for_the_run_that_the_training_names(
    wrapper: Wrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper.say("early")
    wrapper.round()
    assert wrapper.spool.sources() == []
    train(monkeypatch, project="digits", run_id="mine")
    wrapper.round()
    wrapper.say("late")
    assert len(wrapper.finish()) == 1
    assert wrapper.lines() == {("digits", "mine"): ["early", "late"]}
    assert wrapper.ends() == [("mine", "completed", WRAPPER_RANK)]
    assert wrapper.attached.runs == {"mine"}


def test_after_a_while_they_go_into_the_run_the_wrapper_made_and_move_when_there_is_another(
    wrapper: Wrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper.say("early")
    wrapper.clock.now += PATIENCE_SECONDS + 1
    wrapper.round()
    assert wrapper.lines() == {("folder", "made"): ["early"]}
    train(monkeypatch, project="digits", run_id="mine")
    wrapper.say("late")
    wrapper.round()
    assert len(wrapper.finish()) == 2
    assert wrapper.lines() == {("folder", "made"): ["early"], ("digits", "mine"): ["late"]}


def test_a_full_buffer_waits_no_longer(wrapper: Wrapper) -> None:
    wrapper.say(*["x" * 1000] * 500)
    wrapper.round()
    assert wrapper.attached.runs == set()
    wrapper.say(*["x" * 1000] * 500)
    wrapper.round()
    assert wrapper.attached.runs == {"made"}


def test_a_command_without_a_run_gets_one_with_its_end(wrapper: Wrapper) -> None:
    wrapper.say("hello")
    assert len(wrapper.finish()) == 1
    assert wrapper.lines() == {("folder", "made"): ["hello"]}
    assert wrapper.ends() == [("made", "completed", WRAPPER_RANK), ("made", "failed", 0)]


def test_where_nobody_can_name_the_run_nothing_is_published(spool: Spool) -> None:
    wrapper = Wrapper(spool, place=None)
    wrapper.say("hello")
    assert wrapper.finish() == []
    assert not spool.folder.exists()


def test_readings_of_another_rank_bear_its_number(
    spool: Spool, wrapper: Wrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(monkeypatch, project="digits", run_id="mine", rank=3, world=4)
    wrapper.clock.now += READ_SECONDS
    wrapper.round()
    (ours,) = [s for s in spool.sources() if spool.records("system", s)]
    values = spool.records("system", ours)[0]["data"]["values"]
    assert values
    assert all(name.startswith("rank3/") for name in values)
    assert "/mine/3/" in spool.payloads(ours)[0]["source"]


def test_journals_of_others_are_left_alone(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    start_run(project="digits", run_id="theirs")
    train(monkeypatch, project="digits", run_id="ours")
    journals = Journals(spool.folder, "w")
    journals.look()
    assert [header.run for header in journals.seen] == ["ours"]
    assert journals.seen[0].pid == os.getpid()


def test_a_training_that_has_ended_itself_needs_no_word(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINBUS_WRAPPER", "w")
    start_run(project="digits", run_id="own").finish("completed", timeout=0)
    left = start_run(project="digits", run_id="left")
    # As the kernel does when a process dies.
    folder = left._ending._folder
    assert folder is not None
    folder.unlock()
    journals = Journals(spool.folder, "w")
    assert journals.leave_notes(FAILED) == [folder.path]
    assert (folder.path / "end.command").exists()
