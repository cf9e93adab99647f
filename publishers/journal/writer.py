"""Appends lines to the segments of one source. The format is in :mod:`publishers.journal.format`.

There are two ways in. :meth:`JournalWriter.append_row` is for rows of a table that is already
named in the open segment: it makes one ``write`` call and nothing else. Everything unusual (a new
table, a new segment, a failed write, a closed journal) shows as the row's table missing in
:attr:`JournalWriter.declared`, so that the usual case pays for no other check, and goes through
:meth:`JournalWriter.append`.

Nothing here syncs: killing the process loses nothing that was written, and the shipper syncs what
it sends.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import NamedTuple, Protocol

from publishers.journal.format import SEGMENT_BYTES, make_line, segment_name

__all__ = ["Journal", "JournalWriter", "NoJournal", "Table", "cause_of"]

Declared = dict[tuple[object, ...], int]
"""Table numbers by the keys as the caller gives them."""

_NOTHING: Declared = {}
_RETRY_ROTATION_BYTES = 1024 * 1024
"""When a new segment cannot be opened the old one is used for this much longer."""

_NEW_SEGMENT = ".new-segment"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Table(NamedTuple):
    """A set of keys and the line that names it.

    Attributes:
        number: What rows call it.
        keys: How the caller's keys find it in :attr:`JournalWriter.declared`.
        declaration: The payload that names it.
    """

    number: int
    keys: tuple[object, ...]
    declaration: bytes


class Journal(Protocol):
    """Where a run writes to."""

    declared: Declared

    def append_row(self, line: bytes, declared: Declared) -> bool:
        """Write a row's line; False when :meth:`append` has to do it."""

    def append(self, payload: bytes, table: Table | None = None) -> bool:
        """Write any line; False when it could not be, which has been reported then."""

    def close(self) -> None:
        """End writing."""


def cause_of(error: OSError) -> str:
    """The word that a failed write is counted under."""
    return "disk_full" if error.errno in _NO_SPACE else "io_error"


class JournalWriter:
    """The writing end of one source's journal. Any thread may use it.

    Attributes:
        declared: The tables named in the open segment. It is another object whenever a row needs
            more than one plain ``write``; compare by identity.
    """

    def __init__(
        self,
        folder: Path,
        header: Callable[[int], bytes],
        on_failure: Callable[[OSError], None],
        recovery: Callable[[], bytes],
        *,
        segment_bytes: int = SEGMENT_BYTES,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        """Open the first segment.

        Args:
            folder: The source's folder, already there.
            header: Gives the first payload of a segment by its number.
            on_failure: Told of each record that could not be written. Called without the lock.
            recovery: Gives the payload to write once writing works again.
            segment_bytes: Size from which on a new segment is begun.
            write: As ``os.write``.

        Raises:
            OSError: The segment cannot be made.
        """
        self.declared: Declared = _NOTHING
        self._folder = folder
        self._header = header
        self._on_failure = on_failure
        self._recovery = recovery
        self._segment_bytes = segment_bytes
        self._write = write
        # Reentrant, because a signal handler may log while its own thread is in here.
        self._lock = RLock()
        self._is_busy = False
        self._is_closed = False
        self._waiting: deque[tuple[bytes, Table | None]] = deque()
        self._errors: list[OSError] = []
        self._has_to_report = False
        # The last line is not whole: the next write begins with a newline.
        self._is_torn = False
        # It lacks no more than its newline, and was confirmed to the caller.
        self._is_unended = False
        self._segment = 0
        self._open: Declared = {}
        self._known: set[int] = set()
        self._rotate_at = segment_bytes
        self._fd, self._size = self._make_segment(1)
        self._segment = 1
        self.declared = self._open

    def append_row(self, line: bytes, declared: Declared) -> bool:
        """Write a row's line, if its table is named in the segment that is open.

        Args:
            line: A whole line.
            declared: The object in which the table's number was found.

        Returns:
            False when nothing sound was written: then :meth:`append` has to do it.
        """
        with self._lock:
            if declared is not self.declared:
                return False
            try:
                written = self._write(self._fd, line)
            except OSError:
                written = -1
            if written == len(line):
                self._size += written
                if self._size >= self._rotate_at:
                    self.declared = _NOTHING
                return True
            self._is_torn = True
            self._is_unended = written == len(line) - 1
            self.declared = _NOTHING
            return self._is_unended

    def append(self, payload: bytes, table: Table | None = None) -> bool:
        """Write any line, and what has to stand before it.

        Args:
            payload: What the line says.
            table: Of a row: the table it belongs to.

        Returns:
            Whether it was written. If not, ``on_failure`` has been told.
        """
        with self._lock:
            if self._is_busy:
                # A signal handler in this thread, in the middle of the lines below: they go on
                # as soon as it returns.
                self._waiting.append((payload, table))
                return True
            self._is_busy = True
            self.declared = _NOTHING
            try:
                is_written = self._append(payload, table)
                while self._waiting:
                    self._append(*self._waiting.popleft())
            finally:
                self._is_busy = False
                self._settle()
            errors, self._errors = self._errors, []
        for error in errors:
            self._on_failure(error)
        return is_written

    def close(self) -> None:
        """Close the segment. Later records are reported as failed."""
        with self._lock:
            self._is_closed = True
            self._settle()

    def _settle(self) -> None:
        """Open the short way again, unless something has to be done before the next row."""
        self.declared = _NOTHING
        if self._is_busy:
            return
        if self._is_closed:
            if self._fd >= 0:
                self._close_file()
        elif not (self._is_torn or self._has_to_report) and self._size < self._rotate_at:
            self.declared = self._open

    def _close_file(self) -> None:
        if self._is_unended:
            self._end_line()
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _end_line(self) -> bool:
        """Write the newline that the last line lacks; it counts only with it."""
        with contextlib.suppress(OSError):
            if self._write(self._fd, b"\n"):
                self._is_torn = self._is_unended = False
        return not self._is_unended

    def _append(self, payload: bytes, table: Table | None, *, may_rotate: bool = True) -> bool:
        if self._fd < 0:
            self._fail(OSError(errno.EBADF, "the journal is closed"))
            return False
        try:
            is_written = self._append_once(payload, table)
        except OSError as error:
            # The limit on the size of a file (ulimit -f): a new file may be what helps.
            if error.errno == errno.EFBIG and may_rotate and self._rotate(is_forced=True):
                return self._append(payload, table, may_rotate=False)
            self._fail(error)
            return False
        if not is_written:
            self._fail(OSError(errno.ENOSPC, "only a part could be written"))
            return False
        if self._has_to_report:
            self._report()
        return True

    def _append_once(self, payload: bytes, table: Table | None) -> bool:
        if self._size >= self._rotate_at:
            self._rotate()
        if table is not None and table.number not in self._known:
            # Twice, so that one damaged line cannot take rows with it.
            if not self._put(make_line(table.declaration) * 2):
                return False
            self._known.add(table.number)
            self._open[table.keys] = table.number
        return self._put(make_line(payload), is_record=True)

    def _put(self, lines: bytes, *, is_record: bool = False) -> bool:
        """Write whole lines; after a short write once more, to learn what is wrong.

        A line is whole without its newline, because the next write begins with one.

        Raises:
            OSError: Nothing of them was written.
        """
        for _ in range(2):
            data = b"\n" + lines if self._is_torn else lines
            # Set first: an exception from a signal handler may come right after the call.
            self._is_torn = True
            written = self._write(self._fd, data)
            self._size += written
            is_whole = written > 0 and written >= len(data) - 1
            self._is_torn = written < len(data)
            if written:
                self._is_unended = is_record and is_whole and self._is_torn
            if is_whole:
                return True
        return False

    def _report(self) -> None:
        """Write down what was lost, now that writing works again."""
        with contextlib.suppress(OSError):
            if self._put(make_line(self._recovery())):
                self._has_to_report = False

    def _fail(self, error: OSError) -> None:
        self._errors.append(error)
        self._has_to_report = True

    def _rotate(self, *, is_forced: bool = False) -> bool:
        """Go on in a new segment; when there is none to be had, in the old one for a while.

        Args:
            is_forced: The old one takes nothing any more, not even a newline.
        """
        is_ended = not self._is_unended or self._end_line()
        try:
            if not (is_ended or is_forced):
                raise OSError(errno.ENOSPC, "the old segment cannot be ended")
            fd, size = self._make_segment(self._segment + 1)
        except OSError:
            self._rotate_at = self._size + _RETRY_ROTATION_BYTES
            return False
        if not is_ended:
            self._fail(OSError(errno.EFBIG, "the last line could not be ended"))
        old, self._fd = self._fd, fd
        self._segment += 1
        self._size = size
        self._rotate_at = self._segment_bytes
        self._is_torn = self._is_unended = False
        self._open = {}
        self._known = set()
        os.close(old)
        return True

    def _make_segment(self, number: int) -> tuple[int, int]:
        """Make a segment that holds its header; gives its file descriptor and size.

        It gets its name last, so that no reader ever sees one without a header.
        """
        path = self._folder / _NEW_SEGMENT
        line = make_line(self._header(number))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        try:
            if self._write(fd, line) != len(line):
                raise OSError(errno.ENOSPC, "only a part of the header could be written")
            path.rename(self._folder / segment_name(number))
        except BaseException:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        return fd, len(line)


class NoJournal:
    """Stands in when there is nothing to write to: takes nothing, and says so."""

    def __init__(self, on_record: Callable[[], None]) -> None:
        """Report each record to ``on_record``."""
        self.declared: Declared = _NOTHING
        self._on_record = on_record

    def append_row(self, line: bytes, declared: Declared) -> bool:
        """Take nothing: no table is declared, so that no row comes this way."""
        return False

    def append(self, payload: bytes, table: Table | None = None) -> bool:
        """Report the record as lost."""
        self._on_record()
        return False

    def close(self) -> None:
        """Do nothing: nothing is open."""
