"""One source's folder, as the shipper reads, records, trims and ends it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bus.errors import JournalError
from bus.events import Event, decode
from bus.kinds import Metrics, RunFinished
from publishers.journal.format import LOCK_NAME, segment_name
from publishers.shipper.abandoned import is_abandoned
from publishers.shipper.source import JournalSource
from tests.fixtures.roadparts import JournalFolder, open_files

TIME = 1767225600.5
DESCRIBED = {"name": "a.bin", "size": 5, "sha256": "0" * 64, "is_folder": False}


@pytest.fixture
def journal(tmp_path: Path) -> JournalFolder:
    """A journal with its header and one table."""
    folder = JournalFolder(tmp_path / "0-1")
    folder.begin_segment()
    folder.table(1, ["loss"])
    return folder


def rows(journal: JournalFolder, *steps: int) -> None:
    for step in steps:
        journal.line([1, TIME, step, 0.5])


def commit(source: JournalSource) -> list[int]:
    """Record what is planned; the ids that may be sent."""
    under_way = source.begin_commit()
    if under_way is None:
        return []
    under_way.sync()
    return [number for number, _ in source.end_commit(under_way)]


def ship(source: JournalSource, now: float = 1.0) -> list[int]:
    source.poll(now, 0.0, 10**6)
    return commit(source)


def event(source: JournalSource, number: int) -> Event:
    kind, raw = source.event(number)
    found = decode(raw)
    assert (found.kind, found.id) == (kind, number)
    return found


def steps(*events: Event) -> list[int]:
    found = []
    for one in events:
        assert isinstance(one.data, Metrics)
        found += [int(values[1]) for table in one.data.tables for values in table.rows]
    return found


def test_what_is_appended_becomes_events(journal: JournalFolder) -> None:
    source = JournalSource(journal.folder)
    rows(journal, 1, 2)
    assert ship(source) == [1]
    rows(journal, 3)
    journal.record()
    assert ship(source) == [2, 3]
    assert steps(event(source, 1), event(source, 2)) == [1, 2, 3]
    source.close()


def test_an_event_is_made_again_with_the_same_bytes(journal: JournalFolder) -> None:
    source = JournalSource(journal.folder)
    rows(journal, 1, 2)
    journal.record()
    ship(source)
    before = [source.event(number) for number in (1, 2)]
    source.forget_bytes(1)
    source.forget_bytes(2)
    assert [source.event(number) for number in (1, 2)] == before
    again = JournalSource(journal.folder)
    assert [again.event(number) for number in (1, 2)] == before
    source.close()
    again.close()


def test_what_was_not_recorded_is_cut_anew(journal: JournalFolder) -> None:
    source = JournalSource(journal.folder)
    rows(journal, 1)
    source.poll(1.0, 0.0, 10**6)
    source.close()  # killed before the cuts were written
    again = JournalSource(journal.folder)
    rows(journal, 2)
    assert ship(again) == [1]
    assert steps(event(again, 1)) == [1, 2]
    again.close()


def test_it_goes_on_behind_the_last_cut(journal: JournalFolder) -> None:
    source = JournalSource(journal.folder)
    rows(journal, 1)
    ship(source)
    source.close()
    rows(journal, 2)
    again = JournalSource(journal.folder)
    assert [number for number, _ in again.recovered()] == [1]
    assert ship(again) == [2]
    assert steps(event(again, 2)) == [2]
    again.close()


def test_a_blob_that_was_waiting_is_found_again(journal: JournalFolder) -> None:
    source = JournalSource(journal.folder)
    journal.blob("a.bin")
    rows(journal, 1)
    ship(source)
    source.close()
    again = JournalSource(journal.folder)
    (blob,) = again.new_blobs()
    assert again.blob_path(blob).read_bytes() == b"bytes"
    again.uploaded(blob, DESCRIBED, "file:///store/x")
    assert commit(again) == [2]
    assert event(again, 2).dataref == "file:///store/x"
    # The bytes are in the store, and the cut says where.
    assert not again.blob_path(blob).exists()
    again.close()
    third = JournalSource(journal.folder)
    assert third.new_blobs() == []
    assert event(third, 2).dataref == "file:///store/x"
    third.close()


def test_a_blob_of_an_earlier_segment_is_found_again(journal: JournalFolder) -> None:
    rows(journal, *range(1, 50))
    journal.blob("a.bin")
    journal.begin_segment()
    journal.table(1, ["loss"])
    rows(journal, 50)
    source = JournalSource(journal.folder)
    assert ship(source) == [1, 2]
    source.stored([1, 2])
    source.close()
    again = JournalSource(journal.folder)
    (blob,) = again.new_blobs()
    assert blob.segment == 1
    again.close()


@pytest.mark.parametrize("path", ["../../secret", "/etc/passwd", "cuts", "blobs/../lock", "a\0b"])
def test_a_record_cannot_name_files_outside_its_snapshots(
    journal: JournalFolder, path: str
) -> None:
    source = JournalSource(journal.folder)
    journal.record("artifact", {"path": "x"}, blob={"path": path, "name": "x"})
    source.poll(1.0, 0.0, 10**6)
    (blob,) = source.new_blobs()
    with pytest.raises(JournalError):
        source.blob_path(blob)
    source.close()


def test_segments_go_once_all_of_them_is_stored(journal: JournalFolder) -> None:
    source = JournalSource(journal.folder)
    rows(journal, 1)
    journal.begin_segment()
    journal.table(1, ["loss"])
    rows(journal, 2)
    assert ship(source) == [1, 2]
    first = journal.folder / segment_name(1)
    source.stored([2])
    assert first.exists()
    source.stored([1])
    assert not first.exists()
    # Event 2 was never asked for again; its segment is the one that is open.
    assert journal.path.exists()
    source.close()
    again = JournalSource(journal.folder)
    rows(journal, 3)
    assert list(again.recovered_stored()) == [(1, 1)]
    assert ship(again) == [3]
    again.close()


def test_a_segment_stays_while_a_blob_of_it_is_not_stored(journal: JournalFolder) -> None:
    source = JournalSource(journal.folder)
    journal.blob("a.bin")
    rows(journal, 1)
    journal.begin_segment()
    assert ship(source) == [1]
    source.stored([1])
    assert (journal.folder / segment_name(1)).exists()
    (blob,) = source.new_blobs()
    source.uploaded(blob, DESCRIBED, "file:///x")
    assert commit(source) == [2]
    source.stored([2])
    assert not (journal.folder / segment_name(1)).exists()
    source.close()


def test_a_segment_is_complete_when_the_next_one_exists(journal: JournalFolder) -> None:
    source = JournalSource(journal.folder)
    rows(journal, 1)
    journal.write(b"torn")
    ship(source)
    assert source.damaged == 0
    journal.begin_segment()
    journal.table(1, ["loss"])
    rows(journal, 2)
    assert ship(source) == [2]
    assert source.damaged == 1
    source.close()


def test_a_journal_left_without_an_end_is_ended_once_and_after_all_it_holds(
    journal: JournalFolder,
) -> None:
    rows(journal, 1)
    journal.write(b"0123 torn")
    source = JournalSource(journal.folder)
    assert not source.end_if_abandoned(2e9)  # not read yet
    assert ship(source) == [1]
    assert source.end_if_abandoned(2e9)
    assert not source.end_if_abandoned(2e9)
    assert ship(source) == [2]
    last = event(source, 2)
    assert isinstance(last.data, RunFinished)
    assert (last.data.status, last.data.last_id) == ("killed", 2)
    assert last.data.dropped == {"damaged_line": 1}
    source.stored([1, 2])
    assert source.is_finished
    source.remove()
    assert list(journal.folder.parent.iterdir()) == []


def test_a_run_whose_end_was_cut_is_not_ended_again_by_the_next_shipper(
    journal: JournalFolder,
) -> None:
    journal.end()
    source = JournalSource(journal.folder)
    assert ship(source) == [1]
    source.close()  # killed before the log has confirmed it
    again = JournalSource(journal.folder)
    assert again.has_end
    assert not again.end_if_abandoned(2e9)
    assert ship(again) == []
    again.stored([1])
    assert again.is_finished
    again.close()


def test_the_end_is_tried_again_when_the_disk_is_full(
    journal: JournalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = JournalSource(journal.folder)
    ship(source)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("publishers.shipper.source.write_end", refuse)
        with pytest.raises(OSError, match="No space"):
            source.end_if_abandoned(2e9)
    assert source.end_if_abandoned(2e9)
    assert ship(source) == [1]
    source.close()


def test_a_process_that_holds_the_lock_is_alive(journal: JournalFolder) -> None:
    assert is_abandoned(journal.folder)
    code = "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f, 2); print(); input()"
    command = [sys.executable, "-c", code, str(journal.folder / LOCK_NAME)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        assert not is_abandoned(journal.folder)
        source = JournalSource(journal.folder)
        assert source.is_live
        ship(source)
        assert not source.end_if_abandoned(2e9)
        source.close()
        child.stdin.write(b"\n")
    assert is_abandoned(journal.folder)


def test_a_failed_commit_is_repeated_and_syncs_the_journal_again(
    journal: JournalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = JournalSource(journal.folder)
    rows(journal, 1)
    source.poll(1.0, 0.0, 10**6)
    first = source.begin_commit()
    assert first is not None

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", refuse)
        with pytest.raises(OSError, match="Input/output"):
            first.sync()
    second = source.begin_commit()
    assert second is not None
    assert second.segment_fds == first.segment_fds
    second.sync()
    assert [number for number, _ in source.end_commit(second)] == [1]
    source.close()


def test_a_segment_is_not_synced_again_when_nothing_was_appended(journal: JournalFolder) -> None:
    source = JournalSource(journal.folder)
    journal.blob("a.bin")
    rows(journal, 1)
    assert ship(source) == [1]
    (blob,) = source.new_blobs()
    source.uploaded(blob, DESCRIBED, "file:///x")
    under_way = source.begin_commit()
    assert under_way is not None
    assert under_way.segment_fds == {}
    source.close()


def test_a_snapshot_that_cannot_be_removed_does_not_hold_up_its_event(
    journal: JournalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = JournalSource(journal.folder)
    journal.blob("a.bin")
    source.poll(1.0, 0.0, 10**6)
    (blob,) = source.new_blobs()
    source.uploaded(blob, DESCRIBED, "file:///x")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert commit(source) == [1]
    assert event(source, 1).kind == "artifact"
    source.close()


def test_an_event_whose_part_of_the_journal_is_damaged_is_told(journal: JournalFolder) -> None:
    source = JournalSource(journal.folder)
    rows(journal, 1)
    ship(source)
    source.forget_bytes(1)
    raw = bytearray(journal.path.read_bytes())
    raw[-5] ^= 1
    journal.path.write_bytes(raw)
    with pytest.raises(JournalError, match="damaged"):
        source.event(1)
    with pytest.raises(JournalError):
        source.event(99)
    source.close()


def test_a_closed_source_leaves_no_file_open(journal: JournalFolder) -> None:
    before = open_files()
    source = JournalSource(journal.folder)
    rows(journal, 1)
    journal.begin_segment()
    ship(source)
    source.event(1)
    source.close()
    source.close()
    assert open_files() == before


def test_unread_bytes_are_counted(journal: JournalFolder) -> None:
    source = JournalSource(journal.folder)
    assert source.unread_bytes == journal.path.stat().st_size
    ship(source)
    assert source.unread_bytes == 0
    journal.write(b"torn")
    ship(source)
    assert source.unread_bytes == 4
    source.close()
