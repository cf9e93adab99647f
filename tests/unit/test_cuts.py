"""The record of how a journal was cut into events."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import JournalError
from publishers.journal.format import make_line
from publishers.shipper.cuts import Cut, CutsFile

CUTS = [
    Cut(1, 1, 100, 300),
    Cut(2, 1, 300, 420, {"blob": {"name": "last.pt"}}, "file:///store/ab"),
    Cut(3, 2, 90, 200, {"last_id": 3}),
]

plain = st.integers(0, 2**40)


@given(st.builds(Cut, plain, plain, plain, plain, st.just({}) | st.just({"a": [1]}), st.none()))
def test_a_cut_is_read_as_it_was_written(cut: Cut) -> None:
    assert Cut.parse(cut.payload()) == cut


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"[1,2,3]", b'[1,2,3,"x"]', b"[1,2,3,4,5]", b"[1,2,3,4,{},6,7", b"null"]
)
def test_a_line_that_is_no_cut_is_refused(payload: bytes) -> None:
    with pytest.raises(JournalError, match="not a cut"):
        Cut.parse(payload)


def written(path: Path) -> list[Cut]:
    file = CutsFile(path)
    try:
        return file.read()
    finally:
        file.close()


def test_cuts_are_there_after_they_were_appended(tmp_path: Path) -> None:
    file = CutsFile(tmp_path / "cuts")
    assert file.read() == []
    file.append(CUTS[:1])
    file.append(CUTS[1:])
    file.close()
    file.close()
    assert written(tmp_path / "cuts") == CUTS


@pytest.mark.parametrize("kept", range(1, len(make_line(CUTS[2].payload())) - 1))
def test_a_torn_last_line_is_skipped_and_the_next_is_whole(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cuts"
    file = CutsFile(path)
    file.append(CUTS[:2])
    file.close()
    with path.open("ab") as raw:
        raw.write(make_line(CUTS[2].payload())[:kept])
    file = CutsFile(path)
    assert file.read() == CUTS[:2]
    file.append([CUTS[2]])
    file.close()
    assert written(path) == CUTS


def test_a_last_line_that_lacks_only_its_newline_counts(tmp_path: Path) -> None:
    # The newline before the next line will end it: its id must not be given to another event.
    path = tmp_path / "cuts"
    path.write_bytes(b"".join(make_line(cut.payload()) for cut in CUTS[:2])[:-1])
    file = CutsFile(path)
    assert file.read() == CUTS[:2]
    file.append([CUTS[2]])
    file.close()
    assert written(path) == CUTS


def test_a_damaged_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "cuts"
    lines = [make_line(cut.payload()) for cut in CUTS]
    path.write_bytes(lines[0] + b"x" + lines[1][1:] + lines[2])
    assert written(path) == [CUTS[0], CUTS[2]]


def test_a_full_disk_is_told_and_the_same_cuts_may_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cuts"
    file = CutsFile(path)
    file.append(CUTS[:1])
    room = [20]

    def write(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = min(room[0], len(data))
        room[0] -= count
        return real_write(fd, data[:count])

    real_write = os.write
    monkeypatch.setattr(os, "write", write)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            file.append(CUTS[1:])
    assert written(path) == CUTS[:1]
    room[0] = 10**6
    file.append(CUTS[1:])
    file.close()
    assert written(path) == CUTS


def test_a_failed_sync_is_told_and_the_next_append_begins_on_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cuts"
    file = CutsFile(path)

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", refuse)
        with pytest.raises(OSError, match="Input/output"):
            file.append(CUTS)
    file.append(CUTS)
    file.close()
    # Twice the same cuts; their ids are what counts.
    assert {cut.id: cut for cut in written(path)} == {cut.id: cut for cut in CUTS}
