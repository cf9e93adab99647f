from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from publishers import start_run
from publishers.journal import folder as module
from publishers.journal.folder import make_source_folder
from publishers.journal.writer import JournalWriter
from tests.fixtures.spool import Spool
from tests.fixtures.trainers import is_locked


def test_a_source_appears_locked_and_empty(tmp_path: Path) -> None:
    made = make_source_folder(tmp_path / "a" / "spool", 3, "1-abc-def")
    assert made.path == tmp_path / "a/spool/sources/3-1-abc-def"
    assert sorted(path.name for path in made.path.iterdir()) == ["blobs", "lock"]
    assert made.blobs == made.path / "blobs"
    assert is_locked(made.path)
    made.unlock()
    made.unlock()
    assert not is_locked(made.path)


def test_a_folder_without_its_lock_is_never_in_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.lockf
    seen: list[list[str]] = []

    def lock(*arguments: int) -> None:
        seen.append([path.name for path in (tmp_path / "sources").iterdir()])
        real(*arguments)

    monkeypatch.setattr(fcntl, "lockf", lock)
    made = make_source_folder(tmp_path, 0, "1-a-b")
    made.unlock()
    assert seen == [[]]


def test_a_folder_that_cannot_be_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(OSError, match="No locks"):
        make_source_folder(tmp_path, 0, "1-a-b")
    assert [path.name for path in tmp_path.rglob("*")] == ["sources"]


def test_what_a_killed_process_left_half_made_is_removed_after_a_while(tmp_path: Path) -> None:
    (tmp_path / ".new-0-1-old" / "blobs").mkdir(parents=True)
    young = make_source_folder(tmp_path, 0, "1-a-b")
    assert (tmp_path / ".new-0-1-old").exists()
    made = (tmp_path / ".new-0-1-old").stat().st_mtime
    old = make_source_folder(tmp_path, 0, "1-c-d", clock=lambda: made + module._STALE_SECONDS + 1.0)
    assert not (tmp_path / ".new-0-1-old").exists()
    young.unlock()
    old.unlock()


def test_a_journal_that_cannot_be_begun_leaves_no_folder(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(writer: JournalWriter, number: int) -> tuple[int, int]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(JournalWriter, "_make_segment", fail)
    run = start_run("p")
    run.log({"a": 1.0})
    assert spool.sources() == []
    assert run.dropped == {"no_spool": 2}
    assert "No space left" in caplog.messages[0]
    assert run.finish() is False


def test_what_a_rank_lost_is_told_apart_from_the_others(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run("p", run_id="r", rank=2, world=4)
    journal = run._rows.journal

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal, "_write", full)
    run.log({"a": 1.0})
    monkeypatch.setattr(journal, "_write", os.write)
    run.log({"a": 1.0})
    assert spool.data("tags") == [{"set": {"trainbus.dropped.rank2": "1"}}]
    assert spool.points() == [(1, {"rank2/a": 1.0})]
