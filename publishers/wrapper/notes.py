"""The journals that processes of a command have written, and the word left there about its end."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from bus.errors import JournalError
from publishers.journal.format import (
    COMMAND_END_NAME,
    SOURCES_NAME,
    SegmentHeader,
    check_line,
    parse_header,
    segment_number,
)
from publishers.lastwords import EndNote, leave_note
from publishers.shipper.abandoned import is_abandoned
from publishers.shipper.cutter import is_end

__all__ = ["Journals"]

_HEADER_BYTES = 64 * 1024
_LAST_BYTES = 64 * 1024
"""Holds any end: its error has 10,000 characters at the most."""


class Journals:
    """Those of one ``trainbus run`` in one spool."""

    def __init__(self, spool: Path, wrapper: str) -> None:
        """Look later.

        Args:
            spool: Where the command's processes write.
            wrapper: What their headers name.
        """
        self._folder = spool / SOURCES_NAME
        self._wrapper = wrapper
        self._others: set[str] = set()
        self._ours: dict[str, SegmentHeader] = {}

    @property
    def seen(self) -> list[SegmentHeader]:
        """The headers of all that were ever seen, in the order they were found."""
        return list(self._ours.values())

    def look(self) -> None:
        """Look for new ones. Never raises."""
        with suppress(OSError):
            for name in sorted(path.name for path in self._folder.iterdir()):
                if name[0] != "." and name not in self._others and name not in self._ours:
                    self._read(name)

    def _read(self, name: str) -> None:
        header = read_header(self._folder / name)
        if header is None:
            # It has just begun, or cannot be read now: looked at again.
            return
        if header.wrapper == self._wrapper:
            self._ours[name] = header
        else:
            self._others.add(name)

    def leave_notes(self, note: EndNote) -> list[Path]:
        """Tell how the command ended to all whose process has gone without a word of its own.

        Never raises.

        Returns:
            The folders that have a note now.
        """
        self.look()
        noted = []
        for name in list(self._ours):
            folder = self._folder / name
            # A process that goes on, in the background, has an end of its own.
            with suppress(OSError):
                if folder.is_dir() and is_abandoned(folder) and not has_end(folder):
                    leave_note(folder, COMMAND_END_NAME, note)
                    noted.append(folder)
        return noted


def has_end(folder: Path) -> bool:
    """The process wrote the end of its run itself: its last record.

    Raises:
        OSError: It cannot be read.
    """
    segments = _segments(folder)
    if not segments:
        return False
    with segments[-1].open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LAST_BYTES))
        lines = file.read().splitlines()
    return bool(lines) and is_end(check_line(lines[-1]) or b"")


def _segments(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if segment_number(path.name) is not None)


def read_header(folder: Path) -> SegmentHeader | None:
    """The header of the journal in a folder; None when there is none, or not yet."""
    try:
        with _segments(folder)[0].open("rb") as file:
            line = file.readline(_HEADER_BYTES)
        payload = check_line(line.removesuffix(b"\n"))
        return parse_header(payload) if payload is not None else None
    except (OSError, IndexError, JournalError):
        return None


def all_gone(folders: Iterable[Path]) -> bool:
    """The shipper has removed them: all of it is stored."""
    return not any(folder.exists() for folder in folders)
