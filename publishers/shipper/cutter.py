"""Decides how the lines of a journal become events: which rows are coalesced, and when.

Pure: lines and times in, planned events out. Rows are coalesced until the event has 64 KiB or its
oldest row has waited long enough. Every other record is an event of its own and ends the event
before it, so that the order of a source is kept; a record with bytes gets its id only after its
upload, and the end of the run waits for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from bus.errors import JournalError
from bus.events import MAX_EVENT_BYTES
from publishers.journal.format import SegmentHeader
from publishers.journal.reader import Line
from publishers.shipper.compose import Composer, Row, parse_row
from publishers.shipper.cuts import Cut

__all__ = ["COALESCE_BYTES", "Cutter", "PendingBlob", "PlannedEvent"]

COALESCE_BYTES = 64 * 1024
"""Measured: larger events gain nothing."""

_ENVELOPE_BYTES = 1024
"""What an event has besides its rows, about."""


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
    rows: list[Row] = field(default_factory=list)
    size: int = 0


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
        self._keys: dict[int, bytes] = {}
        self._batch: _Batch | None = None
        self._blobs: dict[tuple[int, int], PendingBlob] = {}
        self._new_blobs: list[PendingBlob] = []
        self._end: tuple[int, Line] | None = None

    def feed(self, segment: int, lines: Iterable[Line], now: float) -> list[PlannedEvent]:
        """Take lines, in their order; gives the events that are complete."""
        planned: list[PlannedEvent] = []
        for line in lines:
            payload = line.payload
            if payload is None:
                self.damaged += 1
            elif payload[0] == 0x5B:  # "[": a row
                self._row(segment, line, payload, now, planned)
            else:
                self._other(segment, line, payload, planned)
        return planned

    def flush(self, now: float, age_seconds: float) -> list[PlannedEvent]:
        """Give the event under way if its oldest row has waited for so long."""
        if self._batch is None or now - self._batch.since < age_seconds:
            return self._finish_run()
        planned: list[PlannedEvent] = []
        self._close_batch(planned)
        return planned + self._finish_run()

    def learn(self, payload: bytes) -> None:
        """Note the keys of a table from a line that is not to be cut (again)."""
        try:
            record = orjson.loads(payload)
            self._keys[int(record["table"])] = orjson.dumps(record["keys"])
        except (ValueError, TypeError, KeyError):
            self.damaged += 1

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
            segments.append(self._end[0])
        return min(segments, default=None)

    def rebuild(self, cut: Cut, lines: Iterable[Line]) -> bytes:
        """Make the bytes of an event that was cut before, from the lines of its stretch.

        Raises:
            JournalError: The stretch is damaged.
        """
        payloads = [line.payload for line in lines if line.payload is not None]
        if not payloads:
            raise JournalError(f"event {cut.id}: its part of the journal is damaged")
        if payloads[0][:1] == b"{" and b'"kind":' in payloads[0]:
            return self._composer.record(cut.id, orjson.loads(payloads[0]), cut.extra, cut.dataref)
        rows = []
        for payload in payloads:
            if payload[:1] == b"[":
                rows.append(parse_row(payload))
            else:
                self.learn(payload)
        return self._composer.metrics(
            cut.id, [row for row in rows if row[0] in self._keys], self._keys
        )

    def _row(
        self, segment: int, line: Line, payload: bytes, now: float, planned: list[PlannedEvent]
    ) -> None:
        try:
            row = parse_row(payload)
        except ValueError:
            self.damaged += 1
            return
        if row[0] not in self._keys:
            self.damaged += 1
            return
        batch = self._batch
        size = len(row[1]) + 1
        if batch is not None and batch.size + size > COALESCE_BYTES - _ENVELOPE_BYTES:
            self._close_batch(planned)
            batch = None
        if batch is None or batch.segment != segment:
            self._close_batch(planned)
            batch = self._batch = _Batch(segment, line.offset, line.end, now)
        batch.rows.append(row)
        batch.size += size
        batch.end = line.end

    def _other(self, segment: int, line: Line, payload: bytes, planned: list[PlannedEvent]) -> None:
        if payload.startswith(b'{"table":'):
            self.learn(payload)
            return
        if payload.startswith(b'{"journal":'):
            return
        try:
            record = orjson.loads(payload)
            kind = record["kind"]
        except (ValueError, TypeError, KeyError):
            self.damaged += 1
            return
        self._close_batch(planned)
        if kind == "run_finished":
            self.has_end = True
            self._end = (segment, line)
        elif "blob" in record:
            blob = PendingBlob(segment, line.offset, line.end, record)
            self._blobs[segment, line.offset] = blob
            self._new_blobs.append(blob)
        else:
            cut = Cut(self.next_id, segment, line.offset, line.end)
            planned.extend(self._plan(cut, record))

    def _finish_run(self) -> list[PlannedEvent]:
        """Cut the end of the run once nothing is left to come before it."""
        if self._end is None or self._blobs or self._batch is not None:
            return []
        segment, line = self._end
        self._end = None
        assert line.payload is not None  # only sound lines get here
        record = orjson.loads(line.payload)
        dropped = dict(record["data"].get("dropped", {}))
        for cause, count in (("damaged_line", self.damaged), ("not_made", self.unmade)):
            if count:
                dropped[cause] = dropped.get(cause, 0) + count
        extra = {"last_id": self.next_id, "dropped": dropped}
        return self._plan(Cut(self.next_id, segment, line.offset, line.end, extra), record)

    def _close_batch(self, planned: list[PlannedEvent]) -> None:
        batch, self._batch = self._batch, None
        if batch is None:
            return
        raw = self._composer.metrics(self.next_id, batch.rows, self._keys)
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
