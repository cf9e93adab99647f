"""Reads the lines of a segment from bytes that arrive piece by piece; it does no I/O itself.

What a line is, and when one is damaged, is said in :mod:`publishers.journal.format`. An empty line
is neither: it is what a write leaves behind that failed before its first byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from publishers.journal.format import check_lines

__all__ = ["Block", "Line", "SegmentReader"]


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


class Block(NamedTuple):
    """Consecutive lines of a segment, in a form that costs little per line.

    Attributes:
        starts: Where each line begins in the segment, in bytes.
        payloads: What the lines say; empty where one is damaged.
        ends: Where each line ends, behind its newline.
    """

    starts: list[int]
    payloads: list[bytes]
    ends: list[int]

    def lines(self) -> Iterator[Line]:
        """The lines one by one."""
        for start, payload, end in zip(self.starts, self.payloads, self.ends, strict=True):
            yield Line(start, end, payload or None)


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
        return list(self.take(chunk).lines())

    def take(self, chunk: bytes) -> Block:
        """As :meth:`feed`, all lines in one."""
        cut = chunk.rfind(b"\n")
        if cut < 0:
            # Joined only once a newline comes: a long line in small chunks stays linear.
            if chunk:
                self._parts.append(chunk)
                self._pending += len(chunk)
            return Block([], [], [])
        whole = b"".join((*self._parts, chunk[:cut]))
        tail = chunk[cut + 1 :]
        self._parts = [tail] if tail else []
        self._pending = len(tail)
        lines = whole.split(b"\n")
        sizes = [len(line) + 1 for line in lines]
        places = list(accumulate(sizes, initial=self.offset))
        self.offset += len(whole) + 1
        starts, ends = places[:-1], places[1:]
        if b"" in lines:
            kept = [index for index, line in enumerate(lines) if line]
            starts, ends = [starts[i] for i in kept], [ends[i] for i in kept]
            lines = [lines[i] for i in kept]
        return Block(starts, check_lines(lines), ends)

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
