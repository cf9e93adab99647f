"""Which folders the shipper opens as journals, and which it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bus.errors import JournalError
from publishers.shipper.source import JournalSource
from tests.fixtures.roadparts import JournalFolder, open_files


@pytest.mark.parametrize(
    "header",
    [
        {"journal": 2},
        {"source": "/not/a/source"},
        {"run": "another"},
        {"project": ""},
        {"project": "p" * 2000},
        {"pid": "x"},
    ],
)
def test_a_journal_with_a_header_that_is_not_ours_is_refused_and_leaves_nothing_open(
    tmp_path: Path, header: dict[str, Any]
) -> None:
    folder = JournalFolder(tmp_path / "0-1")
    folder.begin_segment(**header)
    before = open_files()
    for _ in range(3):
        with pytest.raises(JournalError):
            JournalSource(folder.folder)
    assert open_files() == before


def test_a_folder_without_a_segment_is_refused_and_leaves_nothing_open(tmp_path: Path) -> None:
    before = open_files()
    with pytest.raises(JournalError, match="no segment"):
        JournalSource(tmp_path)
    folder = JournalFolder(tmp_path / "0-1")
    folder.begin_segment()
    (folder.folder / "cuts").write_bytes(b"")
    (folder.folder / "cuts").unlink()
    (folder.folder / "cuts").mkdir()
    with pytest.raises(OSError, match="cuts"):
        JournalSource(folder.folder)
    assert open_files() == before


def test_the_header_of_a_later_segment_serves_when_the_first_is_damaged(tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path / "0-1")
    folder.segment = 1
    folder.write(b"garbage\n")
    folder.begin_segment()
    source = JournalSource(folder.folder)
    assert source.run == "r1"
    source.close()
