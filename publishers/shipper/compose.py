"""Events from journal lines: the same lines and the same cut always give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from bus.errors import EventError, JournalError
from bus.events import format_id, format_time, type_of_kind
from publishers.journal.format import SegmentHeader

__all__ = ["Composer", "Rows", "join_rows", "row_time", "table_prefix"]


class Rows(NamedTuple):
    """Rows of one table, their JSON joined by commas."""

    table: int
    joined: bytes


def table_prefix(payload: bytes) -> bytes:
    """The beginning that all rows of a table share: ``[3,``.

    Raises:
        ValueError: It is no row.
    """
    prefix = payload[: payload.index(b",") + 1]
    int(prefix[1:-1])
    return prefix


def join_rows(prefix: bytes, payloads: Sequence[bytes]) -> Rows:
    """Turn ``[3,1767225600.12,10,0.31]`` and its like into rows without the table's number."""
    skipped = len(prefix)
    joined = b"[" + b",[".join([payload[skipped:] for payload in payloads])
    return Rows(int(prefix[1:-1]), joined)


def row_time(row: bytes) -> float:
    """The time (Unix seconds) that a row without its table's number begins with.

    Raises:
        JournalError: It is no time that an event can have.
    """
    try:
        time = float(row[1 : row.index(b",")])
        format_time(time)
    except (ValueError, OverflowError, OSError) as error:
        raise JournalError(f"a row without a time: {row[:40]!r}") from error
    return time


class Composer:
    """Writes the events of one source."""

    def __init__(self, header: SegmentHeader) -> None:
        self._source = header.source
        before = {"specversion": "1.0", "source": header.source}
        after = {
            "subject": header.run,
            "datacontenttype": "application/json",
            "project": header.project,
            "runname": header.run_name,
        }
        self._before = orjson.dumps(before)[:-1]
        self._after = orjson.dumps(after)[1:-1]

    def metrics(self, number: int, rows: Iterable[Rows], keys: Mapping[int, bytes]) -> bytes:
        """Coalesce rows into one event, by joining their bytes.

        Args:
            number: The event's id.
            rows: At least one.
            keys: The keys of each table, as a JSON array.

        Raises:
            JournalError: There is no row, or the first has no time.
        """
        tables: dict[int, list[bytes]] = {}
        first: bytes | None = None
        for table, joined in rows:
            first = first or joined
            tables.setdefault(table, []).append(joined)
        if first is None:
            raise JournalError("an event without rows")
        data = b",".join(
            b'{"keys":%b,"rows":[%b]}' % (keys[table], b",".join(lines))
            for table, lines in tables.items()
        )
        return self._event("metrics", number, row_time(first), None, b'{"tables":[%b]}' % data)

    def record(
        self, number: int, record: Mapping[str, Any], extra: Mapping[str, Any], dataref: str | None
    ) -> bytes:
        """Write a record as an event; ``extra`` is added to its data.

        Raises:
            JournalError: The record has no kind, time or data.
        """
        try:
            data = orjson.dumps({**record["data"], **extra})
            return self._event(record["kind"], number, float(record["time"]), dataref, data)
        except (KeyError, TypeError, ValueError, OverflowError, OSError, EventError) as error:
            raise JournalError(f"not a record: {error}") from error

    def _event(
        self, kind: str, number: int, time: float, dataref: str | None, data: bytes
    ) -> bytes:
        reference = b"" if dataref is None else b',"dataref":' + orjson.dumps(dataref)
        return b'%b,"type":"%b","id":"%b","time":"%b",%b%b,"data":%b}' % (
            self._before,
            type_of_kind(kind).encode(),
            format_id(number).encode(),
            format_time(time).encode(),
            self._after,
            reference,
            data,
        )
