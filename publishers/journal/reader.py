"""Reads the lines of a segment from bytes that arrive piece by piece; it does no I/O itself.

What a line is, and when one is damaged, is said in :mod:`publishers.journal.format`. An empty line
is neither: it is what a write leaves behind that failed before its first byte.
"""

from __future__ import annotations

from typing import NamedTuple

from publishers.journal.format import check_line

__all__ = ["Line", "SegmentReader"]


class Line(NamedTuple):
    """One line of a segment.

    Attributes:
        offset: Where it begins in the segment, in bytes.
        end: Where the next one begins.
        payload: What it says; None when the line is damaged.
    """

    offset: int
    end: int
    payload: bytes | None


class SegmentReader:
    """Takes a segment in chunks of any size and gives its lines, the same for every chunking.

    Attributes:
        offset: Where the first line not given out yet begins, in bytes. A new reader made with
            this offset goes on from there.
    """

    __slots__ = ("_parts", "_pending", "offset")

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset
        self._parts: list[bytes] = []
        self._pending = 0

    @property
    def position(self) -> int:
        """Where the next chunk has to come from, in bytes: all before it has been fed."""
        return self.offset + self._pending

    @property
    def pending(self) -> int:
        """Bytes that were fed and make no whole line yet."""
        return self._pending

    def feed(self, chunk: bytes) -> list[Line]:
        """Take the bytes at :attr:`position` and give the lines they complete."""
        cut = chunk.rfind(b"\n")
        if cut < 0:
            # Joined only once a newline comes: a long line in small chunks stays linear.
            if chunk:
                self._parts.append(chunk)
                self._pending += len(chunk)
            return []
        whole = b"".join((*self._parts, chunk[:cut]))
        tail = chunk[cut + 1 :]
        self._parts = [tail] if tail else []
        self._pending = len(tail)
        lines: list[Line] = []
        offset = self.offset
        for raw in whole.split(b"\n"):
            end = offset + len(raw) + 1
            if raw:
                lines.append(Line(offset, end, check_line(raw)))
            offset = end
        self.offset = offset
        return lines

    def finish(self) -> Line | None:
        """Give the torn tail as a damaged line; None when the segment ends with a newline.

        Only for a segment nobody appends to any more.
        """
        if not self._pending:
            return None
        line = Line(self.offset, self.position, None)
        self.offset = line.end
        self._parts = []
        self._pending = 0
        return line
