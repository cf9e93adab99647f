"""Decides how the lines of a journal become events: which rows are coalesced, and when.

Pure: lines and times in, planned events out. Rows are coalesced until the event has 64 KiB or its
oldest row has waited long enough. Every other record is an event of its own and ends the event
before it, so that the order of a source is kept; a record with bytes gets its id only after its
upload, and the end of the run waits for all of them.

What a table number means is looked up in the segment of its rows and nowhere else, though it means
the same in all: an event is made again from one segment, when others may be gone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import orjson

from bus.errors import JournalError
from bus.events import MAX_EVENT_BYTES, format_time
from bus.kinds import KINDS
from publishers.journal.format import SegmentHeader
from publishers.journal.reader import Block
from publishers.shipper.compose import Composer, Rows, join_rows, row_time, table_prefix
from publishers.shipper.cuts import Cut

__all__ = ["COALESCE_BYTES", "Cutter", "PendingBlob", "PlannedEvent", "is_end"]

COALESCE_BYTES = 64 * 1024
"""Journal bytes of the rows of one event at the most. Measured: larger events gain nothing."""

_ROOM_BYTES = MAX_EVENT_BYTES - 8 * 1024
"""For the rows of an event and the names of their tables; the rest is the envelope's."""
_TABLE_BYTES = 24
"""What a table has besides its names and rows."""

_END = "run_finished"


@dataclass(frozen=True, slots=True)
class PlannedEvent:
    """An event ready to be recorded and sent."""

    cut: Cut
    kind: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class PendingBlob:
    """A record whose bytes have to be uploaded first."""

    segment: int
    start: int
    end: int
    record: dict[str, Any]


@dataclass(slots=True)
class _Batch:
    segment: int
    start: int
    end: int
    since: float
    rows: list[Rows] = field(default_factory=list)
    tables: set[int] = field(default_factory=set)
    names_size: int = 0

    def room(self, table: int, keys: bytes) -> int:
        """Journal bytes that it may span once rows of a table are in it."""
        more = 0 if table in self.tables else len(keys) + _TABLE_BYTES
        return min(COALESCE_BYTES, _ROOM_BYTES - self.names_size - more)

    def add(self, rows: Rows, keys: bytes, end: int) -> None:
        if rows.table not in self.tables:
            self.tables.add(rows.table)
            self.names_size += len(keys) + _TABLE_BYTES
        self.rows.append(rows)
        self.end = end


class Cutter:
    """Cuts the journal of one source.

    Attributes:
        next_id: The id the next event gets.
        has_end: The end of the run has been read.
        damaged: Lines that were damaged or made no sense, by the shipper's count.
        unmade: Records that could not become events: too large, or their bytes are gone.
    """

    def __init__(self, header: SegmentHeader, next_id: int = 1) -> None:
        self.next_id = next_id
        self.has_end = False
        self.damaged = 0
        self.unmade = 0
        self._composer = Composer(header)
        self._keys: dict[int, dict[int, bytes]] = {}
        """By segment and table."""
        self._batch: _Batch | None = None
        self._blobs: dict[tuple[int, int], PendingBlob] = {}
        self._new_blobs: list[PendingBlob] = []
        self._end: tuple[Cut, dict[str, Any]] | None = None

    def feed(self, segment: int, block: Block, now: float) -> list[PlannedEvent]:
        """Take lines, in their order; gives the events that are complete."""
        planned: list[PlannedEvent] = []
        at, payloads = 0, block.payloads
        while at < len(payloads):
            payload = payloads[at]
            if payload[:1] == b"[":
                at = self._rows(segment, block, at, now, planned)
                continue
            if payload:
                self._other(Cut(0, segment, block.starts[at], block.ends[at]), payload, planned)
            else:
                self.damaged += 1
            at += 1
        return planned

    def flush(self, now: float, age_seconds: float) -> list[PlannedEvent]:
        """Give the event under way if its oldest row has waited for so long."""
        if self._batch is None or now - self._batch.since < age_seconds:
            return self._finish_run()
        planned: list[PlannedEvent] = []
        self._close_batch(planned)
        return planned + self._finish_run()

    def learn(self, segment: int, payload: bytes) -> bool:
        """Note the keys of a table from a line of a segment; False when it makes no sense."""
        try:
            record = orjson.loads(payload)
            number, keys = int(record["table"]), list(record["keys"])
        except (ValueError, TypeError, KeyError):
            return False
        self._keys.setdefault(segment, {})[number] = orjson.dumps(keys)
        return True

    def forget_below(self, segment: int) -> None:
        """Segments below this one are not asked for any more."""
        for number in [number for number in self._keys if number < segment]:
            del self._keys[number]

    def new_blobs(self) -> list[PendingBlob]:
        """Records met since the last call whose bytes are to be uploaded."""
        found, self._new_blobs = self._new_blobs, []
        return found

    def uploaded(
        self, blob: PendingBlob, described: dict[str, Any] | None, dataref: str | None
    ) -> list[PlannedEvent]:
        """The bytes of a record are in the store; ``described`` is None if they are gone."""
        self._blobs.pop((blob.segment, blob.start), None)
        if described is None:
            self.unmade += 1
            return []
        cut = Cut(self.next_id, blob.segment, blob.start, blob.end, {"blob": described}, dataref)
        return self._plan(cut, blob.record)

    @property
    def is_waiting(self) -> bool:
        """Rows, uploads or the end of the run have been read and not cut."""
        return self._batch is not None or bool(self._blobs) or self._end is not None

    @property
    def oldest_segment(self) -> int | None:
        """The lowest segment that is still needed for what has not been cut."""
        segments = [segment for segment, _ in self._blobs]
        if self._batch is not None:
            segments.append(self._batch.segment)
        if self._end is not None:
            segments.append(self._end[0].segment)
        return min(segments, default=None)

    def rebuild(self, cut: Cut, block: Block) -> bytes:
        """Make the bytes of an event that was cut before, from the lines of its stretch.

        Raises:
            JournalError: The stretch is damaged.
        """
        payloads = [payload for payload in block.payloads if payload]
        if not payloads:
            raise JournalError(f"event {cut.id}: its part of the journal is damaged")
        if payloads[0][:1] == b"{" and b'"kind":' in payloads[0]:
            return self._composer.record(cut.id, orjson.loads(payloads[0]), cut.extra, cut.dataref)
        rows: list[Rows] = []
        keys = self._keys.setdefault(cut.segment, {})
        at = 0
        while at < len(payloads):
            if payloads[at][:1] == b"[":
                prefix, end = _run_of_rows(payloads, at)
                if prefix is not None and int(prefix[1:-1]) in keys:
                    rows.append(join_rows(prefix, payloads[at:end]))
                at = end
            else:
                self.learn(cut.segment, payloads[at])
                at += 1
        return self._composer.metrics(cut.id, rows, keys)

    def _rows(
        self, segment: int, block: Block, at: int, now: float, planned: list[PlannedEvent]
    ) -> int:
        """Take the rows of one table that begin at ``at``; gives the index behind them."""
        prefix, end = _run_of_rows(block.payloads, at)
        table = -1 if prefix is None else int(prefix[1:-1])
        keys = self._keys.get(segment, {}).get(table)
        if prefix is None or keys is None:
            self.damaged += end - at
            return end
        while at < end:
            batch = self._batch
            if batch is None or batch.segment != segment:
                self._close_batch(planned)
                if not _has_time(prefix, block.payloads[at]):
                    self.damaged += 1
                    at += 1
                    continue
                batch = self._batch = _Batch(segment, block.starts[at], block.starts[at], now)
            # As many as fit; one is taken even if it does not, when nothing is before it.
            fits = bisect_right(block.ends, batch.start + batch.room(table, keys), at, end)
            if fits == at and batch.rows:
                self._close_batch(planned)
                continue
            fits = max(fits, at + 1)
            batch.add(join_rows(prefix, block.payloads[at:fits]), keys, block.ends[fits - 1])
            at = fits
        return end

    def _other(self, cut: Cut, payload: bytes, planned: list[PlannedEvent]) -> None:
        """Take a line that is no row; ``cut`` says where it stands, and has no id yet."""
        if payload.startswith(b'{"table":'):
            self.damaged += not self.learn(cut.segment, payload)
            return
        if payload.startswith(b'{"journal":'):
            return
        record = _parse_record(payload)
        if record is None:
            self.damaged += 1
            return
        self._close_batch(planned)
        if record["kind"] == _END:
            self.has_end = True
            self._end = (cut, record)
        elif "blob" in record:
            blob = PendingBlob(cut.segment, cut.start, cut.end, record)
            self._blobs[cut.segment, cut.start] = blob
            self._new_blobs.append(blob)
        else:
            planned.extend(self._plan(cut._replace(id=self.next_id), record))

    def _finish_run(self) -> list[PlannedEvent]:
        """Cut the end of the run once nothing is left to come before it."""
        if self._end is None or self._blobs or self._batch is not None:
            return []
        cut, record = self._end
        self._end = None
        noted = record["data"].get("dropped")
        dropped = dict(noted) if isinstance(noted, dict) else {}
        for cause, count in (("damaged_line", self.damaged), ("not_made", self.unmade)):
            if count:
                before = dropped.get(cause)
                dropped[cause] = count + (before if isinstance(before, int) else 0)
        extra = {"last_id": self.next_id, "dropped": dropped}
        return self._plan(cut._replace(id=self.next_id, extra=extra), record)

    def _close_batch(self, planned: list[PlannedEvent]) -> None:
        batch, self._batch = self._batch, None
        if batch is None:
            return
        raw = self._composer.metrics(self.next_id, batch.rows, self._keys[batch.segment])
        self._take(
            Cut(self.next_id, batch.segment, batch.start, batch.end), "metrics", raw, planned
        )

    def _plan(self, cut: Cut, record: dict[str, Any]) -> list[PlannedEvent]:
        planned: list[PlannedEvent] = []
        try:
            raw = self._composer.record(cut.id, record, cut.extra, cut.dataref)
        except JournalError:
            self.unmade += 1
            return []
        self._take(cut, str(record["kind"]), raw, planned)
        return planned

    def _take(self, cut: Cut, kind: str, raw: bytes, planned: list[PlannedEvent]) -> None:
        """Give an event its id, unless no broker would take it: ids have no holes."""
        if len(raw) > MAX_EVENT_BYTES:
            self.unmade += 1
            return
        self.next_id += 1
        planned.append(PlannedEvent(cut, kind, raw))


def is_end(payload: bytes) -> bool:
    """Whether a line says that the run has ended."""
    record = _parse_record(payload) if payload.startswith(b"{") else None
    return record is not None and record["kind"] == _END


def _parse_record(payload: bytes) -> dict[str, Any] | None:
    """A record that an event can be made of; None when it is none."""
    try:
        record: dict[str, Any] = orjson.loads(payload)
        is_record = record["kind"] in KINDS and isinstance(record["data"], dict)
        if "blob" in record:
            is_record = is_record and {"path", "name"} <= record["blob"].keys()
        format_time(float(record["time"]))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, OSError):
        return None
    return record if is_record else None


def _has_time(prefix: bytes, payload: bytes) -> bool:
    try:
        row_time(b"[" + payload[len(prefix) :])
    except JournalError:
        return False
    return True


def _run_of_rows(payloads: Sequence[bytes], at: int) -> tuple[bytes | None, int]:
    """The rows of one table from ``at`` on: their prefix, and the index behind them.

    The prefix is None when the first is no row after all.
    """
    try:
        prefix = table_prefix(payloads[at])
    except ValueError:
        return None, at + 1
    end, step = at + 1, 16
    while end < len(payloads):
        # In strides that grow: one table may go on for thousands of rows, or for one.
        same = list(map(bytes.startswith, payloads[end : end + step], repeat(prefix)))
        if not all(same):
            return prefix, end + same.index(False)
        end += len(same)
        step *= 2
    return prefix, end
