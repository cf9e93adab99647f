"""The segment files of one source, as the shipper reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from bus.errors import JournalError
from publishers.journal.format import (
    SegmentHeader,
    check_line,
    parse_header,
    segment_name,
    segment_number,
)
from publishers.journal.reader import Block, Line, SegmentReader

__all__ = ["SegmentFiles"]

_HEADER_BYTES = 64 * 1024
_RECORDS = re.compile(rb"^[0-9a-f]{8} (\{.*)$", re.MULTILINE)


class SegmentFiles:
    """Open files and their contents; nothing here writes.

    Every method may raise OSError.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fds: dict[int, int] = {}

    def numbers(self) -> list[int]:
        """The segments that are there, lowest first.

        Raises:
            JournalError: There is none.
        """
        found = sorted(
            number
            for path in self._folder.iterdir()
            if (number := segment_number(path.name)) is not None
        )
        if not found:
            raise JournalError(f"{self._folder}: no segment yet")
        return found

    def path(self, segment: int) -> Path:
        """The file of a segment."""
        return self._folder / segment_name(segment)

    def fd(self, segment: int) -> int:
        """A file descriptor to read a segment by; it stays open until :meth:`close`."""
        fd = self._fds.get(segment)
        if fd is None:
            fd = self._fds[segment] = os.open(self.path(segment), os.O_RDONLY | os.O_CLOEXEC)
        return fd

    def header(self) -> SegmentHeader:
        """The header of the first segment that has one.

        Raises:
            JournalError: None has one that can be read.
        """
        for segment in self.numbers():
            first = os.pread(self.fd(segment), _HEADER_BYTES, 0).partition(b"\n")[0]
            payload = check_line(first)
            if payload is not None:
                return parse_header(payload)
        raise JournalError(f"{self._folder}: no segment has a header that can be read")

    def size(self, segment: int) -> int:
        """Bytes a segment has now; 0 when it is gone."""
        try:
            return self.path(segment).stat().st_size
        except FileNotFoundError:
            return 0

    def stretch(self, segment: int, start: int, end: int) -> Block:
        """The lines between two offsets."""
        return SegmentReader(start).take(os.pread(self.fd(segment), end - start, start))

    def records(self, segment: int) -> Iterator[Line]:
        """The sound lines of a segment that are no rows: few, and found without reading rows."""
        data = self.path(segment).read_bytes()
        for match in _RECORDS.finditer(data):
            if check_line(match[0]) is not None:
                yield Line(match.start(), match.end() + 1, match[1])

    def close(self, segment: int) -> None:
        """Close the file of a segment."""
        fd = self._fds.pop(segment, None)
        if fd is not None:
            os.close(fd)

    def close_all(self) -> None:
        """Close all files."""
        for segment in list(self._fds):
            self.close(segment)
