"""How stretches of a journal were cut into events, as the ``cuts`` file of a source records it.

The file is lines as in a segment; each payload is ``[id, segment, start, end]``, with an object
behind it for what the journal itself does not say (the uploaded blob, the last id). It is written
and synced before an event is first sent, so that an event sent again, by this shipper or the next,
has the same bytes. A torn last line was never sent, and is skipped; one that lacks no more than its
newline counts, because the next line brings it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from bus.errors import JournalError
from publishers.journal.format import check_line, make_line
from publishers.journal.reader import SegmentReader

__all__ = ["Cut", "CutsFile"]


class Cut(NamedTuple):
    """One event: its id, and the bytes of the journal it was made from.

    Attributes:
        start: Offset of its first line in the segment.
        end: Offset behind its last line.
        extra: What is added to the record's data.
        dataref: Where its bytes are; None for events without any.
    """

    id: int
    segment: int
    start: int
    end: int
    extra: dict[str, Any] = {}  # noqa: RUF012  # a field's default, never changed
    dataref: str | None = None

    def payload(self) -> bytes:
        """As written in the cuts file."""
        fields: list[Any] = [self.id, self.segment, self.start, self.end]
        if self.extra or self.dataref:
            fields.append({"extra": self.extra, "dataref": self.dataref})
        return orjson.dumps(fields)

    @classmethod
    def parse(cls, payload: bytes) -> Cut:
        """Read a payload.

        Raises:
            JournalError: It is no cut.
        """
        try:
            number, segment, start, end, *more = orjson.loads(payload)
            added = more[0] if more else {}
            return cls(
                int(number),
                int(segment),
                int(start),
                int(end),
                dict(added.get("extra", {})),
                added.get("dataref"),
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise JournalError(f"not a cut: {payload[:80]!r}") from error


class CutsFile:
    """The cuts of one source, on disk.

    Raises:
        OSError: The file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._needs_newline = False
        self._is_closed = False

    def read(self) -> list[Cut]:
        """All cuts that were written whole, in the order they were written."""
        reader = SegmentReader()
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        payloads = [line.payload for line in reader.feed(data)]
        self._needs_newline = reader.pending > 0
        payloads.append(check_line(data[reader.offset :]))
        return [Cut.parse(payload) for payload in payloads if payload is not None]

    def append(self, cuts: Iterable[Cut]) -> None:
        """Write cuts and sync them to disk: when this returns they may be sent."""
        data = b"".join(make_line(cut.payload()) for cut in cuts)
        if self._needs_newline:
            data = b"\n" + data
        self._needs_newline = True
        written = 0
        while written < len(data):
            written += os.write(self._fd, data[written:])
        os.fdatasync(self._fd)
        self._needs_newline = False

    def close(self) -> None:
        """Close the file; it may be closed already."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self._fd)
