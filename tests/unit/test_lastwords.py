"""How a process ended, by the notes beside its journal."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.errors import JournalError
from bus.events import decode
from bus.kinds import RunFinished
from publishers.journal.format import COMMAND_END_NAME, PROCESS_END_NAME
from publishers.lastwords import EndNote, leave_note, read_note
from publishers.shipper.abandoned import NOTE_PATIENCE_SECONDS
from publishers.shipper.source import JournalSource
from tests.fixtures.roadparts import JournalFolder

NOW = 2e9
FAILED = EndNote("failed", "the command exited with status 3", NOW - 1)
WELL = EndNote("completed", time=NOW - 2, dropped={"bad_value": 2})


class Left:
    """A journal whose process has died."""

    def __init__(self, folder: Path, wrapper: str) -> None:
        self.journal = JournalFolder(folder)
        self.journal.begin_segment(wrapper=wrapper)
        self.source = JournalSource(self.journal.folder)
        self.source.poll(1.0, 0.0, 10**6)

    def leave(self, name: str, note: EndNote) -> None:
        leave_note(self.journal.folder, name, note)

    def ends(self, now: float) -> bool:
        return self.source.end_if_abandoned(now)

    def end(self) -> RunFinished:
        self.source.poll(2.0, 0.0, 10**6)
        commit = self.source.begin_commit()
        assert commit is not None
        commit.sync()
        self.source.end_commit(commit)
        data = decode(self.source.event(1)[1]).data
        assert isinstance(data, RunFinished)
        return data


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    made = Left(tmp_path / "0-1", "w")
    yield made
    made.source.close()


def test_the_word_of_the_command_is_taken(left: Left) -> None:
    left.leave(COMMAND_END_NAME, FAILED)
    assert left.ends(NOW)
    end = left.end()
    assert (end.status, end.error, end.rank) == ("failed", FAILED.error, 0)


def test_it_is_waited_for_so_long_and_no_longer(left: Left) -> None:
    assert not left.ends(NOW)
    assert not left.ends(NOW + NOTE_PATIENCE_SECONDS - 0.1)
    assert left.ends(NOW + NOTE_PATIENCE_SECONDS)
    end = left.end()
    assert (end.status, end.error) == ("killed", "the process ended without finishing its run")


def test_a_clock_that_is_set_back_does_not_lengthen_the_wait(left: Left) -> None:
    assert not left.ends(NOW)
    assert left.ends(NOW - 3600)


def test_a_note_that_comes_while_it_is_waited_for_counts(left: Left) -> None:
    assert not left.ends(NOW)
    left.leave(COMMAND_END_NAME, FAILED)
    assert left.ends(NOW + 1)
    assert left.end().status == "failed"


def test_a_process_that_did_well_is_believed_unless_the_command_failed(left: Left) -> None:
    left.leave(PROCESS_END_NAME, WELL)
    left.leave(COMMAND_END_NAME, FAILED)
    assert left.ends(NOW)
    end = left.end()
    assert (end.status, end.error, end.dropped) == ("failed", FAILED.error, {"bad_value": 2})


def test_a_process_that_did_well_has_its_word_when_the_command_goes_on(left: Left) -> None:
    left.leave(PROCESS_END_NAME, WELL)
    assert not left.ends(NOW)
    assert left.ends(NOW + NOTE_PATIENCE_SECONDS)
    end = left.end()
    assert (end.status, end.error, end.dropped) == ("completed", "", {"bad_value": 2})


def test_a_command_that_did_well_does_not_speak_for_a_process_that_left_nothing(
    left: Left,
) -> None:
    left.leave(COMMAND_END_NAME, EndNote("completed", time=NOW, pid=left.source.header.pid + 1))
    assert left.ends(NOW)
    end = left.end()
    assert (end.status, end.error) == ("killed", "the process ended without finishing its run")


def test_a_command_that_did_well_speaks_for_its_own_process(left: Left) -> None:
    left.leave(COMMAND_END_NAME, EndNote("completed", time=NOW, pid=left.source.header.pid))
    assert left.ends(NOW)
    assert left.end().status == "completed"


def test_without_a_wrapper_nothing_is_waited_for(tmp_path: Path) -> None:
    alone = Left(tmp_path / "0-1", "")
    assert alone.ends(NOW)
    assert alone.end().status == "killed"
    alone.source.close()


def test_an_end_may_be_about_another_rank(tmp_path: Path) -> None:
    alone = Left(tmp_path / "0-1", "")
    alone.leave(COMMAND_END_NAME, EndNote("killed", "gone", rank=999))
    assert alone.ends(NOW)
    assert (alone.end().rank, alone.source.name.rank) == (999, 0)
    alone.source.close()


@pytest.mark.parametrize("content", [b"", b"torn", b"00000000 {}\n", b"\xff" * 100])
def test_a_damaged_note_counts_as_none(left: Left, content: bytes) -> None:
    (left.journal.folder / COMMAND_END_NAME).write_bytes(content)
    with pytest.raises(JournalError):
        read_note(left.journal.folder, COMMAND_END_NAME)
    assert not left.ends(NOW)
    assert left.ends(NOW + NOTE_PATIENCE_SECONDS)
    assert left.end().status == "killed"


def test_a_note_is_there_as_a_whole_or_not_at_all(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    before = sorted(left.journal.folder.iterdir())
    with pytest.raises(OSError, match="No space"):
        left.leave(COMMAND_END_NAME, FAILED)
    assert sorted(left.journal.folder.iterdir()) == before
