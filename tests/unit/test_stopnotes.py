"""The shipper's notes for training processes that are asked to stop."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.control import StopNotice
from publishers.shipper import stopnotes
from publishers.shipper.discovery import SayOnce
from publishers.shipper.source import JournalSource
from publishers.shipper.stopnotes import CONFIRM_SECONDS, StopNotes, write_note
from publishers.stopping import read_note
from tests.fixtures.roadparts import RUN, SOURCE, JournalFolder, open_files, source_of

NOTICE = StopNotice("loss diverged", "trainbus stop", 5.5)
OTHER = StopNotice("cancelled", "hub", 6.5)


class Clock:
    """Monotonic seconds that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Served:
    """The sources of one spool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journals: list[JournalSource] = []

    def add(self, rank: int = 0, run: str = RUN, **changes: Any) -> JournalSource:
        folder = JournalFolder(self.folder / f"{rank}-{run}-{len(self.journals)}", run)
        folder.begin_segment(**{"source": source_of(run, rank), **changes})
        journal = JournalSource(folder.folder)
        self.journals.append(journal)
        return journal

    def notes(self) -> list[StopNotice | None]:
        return [read_note(journal.folder) for journal in self.journals]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    for journal in made.journals:
        journal.close()


@pytest.fixture
def notes(clock: Clock) -> StopNotes:
    return StopNotes(SayOnce(), clock)


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_all_processes_of_the_run_get_the_note(served: Served, notes: StopNotes) -> None:
    for rank in range(3):
        served.add(rank)
    notes.hear("digits", RUN, NOTICE)
    await notes.carry_out(served.journals)
    assert served.notes() == [NOTICE] * 3
    assert sorted(notes.noted) == [source_of(rank=rank) for rank in range(3)]


async def test_other_runs_and_other_projects_are_left_alone(
    served: Served, notes: StopNotes
) -> None:
    served.add(run="r2")
    served.add(1, project="faces")
    served.add(2)
    # Named, but on a topic that is not theirs: who may stop a run is granted by topic.
    names = tuple(journal.header.source for journal in served.journals)
    notes.hear("digits", RUN, StopNotice("", "hub", 1.0, names))
    await notes.carry_out(served.journals)
    assert [note is not None for note in served.notes()] == [False, False, True]
    assert notes.noted == [source_of(rank=2)]


async def test_a_notice_that_names_processes_is_for_those_alone(
    served: Served, notes: StopNotes
) -> None:
    served.add(0)
    served.add(1)
    notes.hear("digits", RUN, StopNotice("r", "b", 1.0, (source_of(rank=1),)))
    await notes.carry_out(served.journals)
    # Who else is meant does not go into the note.
    assert served.notes() == [None, StopNotice("r", "b", 1.0)]


async def test_a_process_that_begins_later_is_not_meant(served: Served, notes: StopNotes) -> None:
    served.add(0)
    notes.hear("digits", RUN, NOTICE)
    await notes.carry_out(served.journals)
    served.add(1)
    await notes.carry_out(served.journals)
    assert served.notes() == [NOTICE, None]
    assert notes.noted == [SOURCE]


async def test_a_notice_that_comes_before_the_spool_was_looked_at_is_kept(
    served: Served, notes: StopNotes
) -> None:
    notes.hear("digits", RUN, NOTICE)
    served.add()
    await notes.carry_out(served.journals)
    assert served.notes() == [NOTICE]


async def test_the_first_notice_stays(served: Served, notes: StopNotes) -> None:
    served.add()
    notes.hear("digits", RUN, NOTICE)
    notes.hear("digits", RUN, OTHER)
    await notes.carry_out(served.journals)
    notes.hear("digits", RUN, OTHER)
    await notes.carry_out(served.journals)
    assert served.notes() == [NOTICE]


async def test_a_new_shipper_knows_the_notes_of_the_one_before(
    served: Served, notes: StopNotes
) -> None:
    served.add(0)
    served.add(1)
    write_note(served.journals[1].folder, NOTICE)
    await notes.carry_out(served.journals)
    assert notes.noted == [source_of(rank=1)]
    notes.hear("digits", RUN, OTHER)
    await notes.carry_out(served.journals)
    assert served.notes() == [OTHER, NOTICE]


async def test_a_damaged_note_is_reported_not_confirmed_and_written_anew(
    served: Served, notes: StopNotes, caplog: pytest.LogCaptureFixture
) -> None:
    (served.add().folder / "stop").write_bytes(b"torn")
    await notes.carry_out(served.journals)
    assert notes.noted == []
    assert "stop is damaged" in caplog.text
    notes.hear("digits", RUN, NOTICE)
    await notes.carry_out(served.journals)
    assert served.notes() == [NOTICE]


async def test_a_source_that_is_gone_is_confirmed_for_some_heartbeats_and_forgotten(
    served: Served, notes: StopNotes, clock: Clock
) -> None:
    served.add(0)
    served.add(1)
    notes.hear("digits", RUN, StopNotice("r", "b", 1.0, (SOURCE,)))
    await notes.carry_out(served.journals)
    await notes.carry_out([])
    assert notes._has_note == {}
    clock.now += CONFIRM_SECONDS - 1.0
    await notes.carry_out([])
    assert notes.noted == [SOURCE]
    clock.now += 1.0
    await notes.carry_out([])
    assert notes.noted == []


async def test_a_full_disk_is_warned_about_once_and_the_note_is_written_later(
    served: Served,
    notes: StopNotes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = served.add().folder
    monkeypatch.setattr(stopnotes, "write_note", _no_space)
    (folder / ".stop.new").touch()
    notes.hear("digits", RUN, NOTICE)
    for _ in range(3):
        await notes.carry_out(served.journals)
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    assert not (folder / ".stop.new").exists(), "it would keep the space"
    assert notes.noted == []
    monkeypatch.undo()
    await notes.carry_out(served.journals)
    assert (served.notes(), notes.noted) == ([NOTICE], [SOURCE])


def _no_space(folder: Path, notice: StopNotice) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_folder_removed_by_somebody_is_only_warned_about(
    served: Served, notes: StopNotes, caplog: pytest.LogCaptureFixture
) -> None:
    journal = served.add()
    journal.folder.rename(journal.folder.with_name("away"))
    notes.hear("digits", RUN, NOTICE)
    await notes.carry_out(served.journals)
    assert notes.noted == []
    assert "will retry" in caplog.text


async def test_a_flood_of_notices_takes_bounded_memory(served: Served, notes: StopNotes) -> None:
    for _ in range(3 * stopnotes.MAX_HEARD):
        notes.hear("digits", "nobody", NOTICE)
    assert len(notes._heard) == stopnotes.MAX_HEARD
    await notes.carry_out([])
    assert len(notes._heard) == 0


def test_a_note_is_synced_before_it_has_its_name_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    real = os.fsync

    def note(fd: int) -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        real(fd)

    monkeypatch.setattr(os, "fsync", note)
    write_note(tmp_path, NOTICE)
    assert seen == [[".stop.new"], ["stop"]]


def test_a_kill_between_write_and_rename_leaves_no_note_and_the_next_write_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(self: Path, target: Path) -> Path:
        raise Killed

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(Killed):
        write_note(tmp_path, NOTICE)
    monkeypatch.undo()
    assert read_note(tmp_path) is None
    write_note(tmp_path, OTHER)
    assert read_note(tmp_path) == OTHER


def test_writing_leaves_no_file_open(tmp_path: Path) -> None:
    before = open_files()
    write_note(tmp_path, NOTICE)
    with pytest.raises(OSError, match="No such file"):
        write_note(tmp_path / "gone", NOTICE)
    read_note(tmp_path)
    assert open_files() == before
