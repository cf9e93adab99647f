"""The journal of one source on disk: read, cut, recorded, trimmed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from bus.errors import EventError, JournalError
from bus.idranges import IdRanges
from bus.source import Source
from bus.topics import Topics
from publishers.journal.format import BLOBS_NAME, CUTS_NAME, SegmentHeader
from publishers.journal.reader import Block, SegmentReader
from publishers.shipper.abandoned import LastWords, is_abandoned, write_end
from publishers.shipper.cuts import Cut, CutsFile
from publishers.shipper.cutter import Cutter, PendingBlob, PlannedEvent, is_end
from publishers.shipper.segments import SegmentFiles

__all__ = ["Commit", "JournalSource"]

READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Commit:
    """Planned events on their way to disk."""

    events: list[PlannedEvent]
    segment_fds: dict[int, int]
    cuts_file: CutsFile

    def sync(self) -> None:
        """Sync the journal, then record the cuts; may run in a thread.

        Raises:
            OSError: The disk refuses.
        """
        for fd in self.segment_fds.values():
            os.fdatasync(fd)
        self.cuts_file.append(event.cut for event in self.events)


class JournalSource:
    """One folder of the spool, from the lock to the cuts.

    Attributes:
        header: Whose journal it is.
        planned: Events that are cut but not yet recorded in the cuts file, so not to be sent.

    Raises:
        JournalError: No segment has a header that can be read, or what it says is not ours.
        OSError: The folder cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with contextlib.ExitStack() as opened:
            self._segments = SegmentFiles(folder)
            opened.callback(self._segments.close_all)
            self._open(opened)
            opened.pop_all()

    def _open(self, opened: contextlib.ExitStack) -> None:
        self.planned: list[PlannedEvent] = []
        segments = self._segments.numbers()
        self.header = self._segments.header()
        self.name = _name_of(self.header)
        self._cuts_file = CutsFile(self.folder / CUTS_NAME)
        opened.callback(self._cuts_file.close)
        cuts = self._cuts_file.read()
        self._cutter = Cutter(self.header, max((cut.id for cut in cuts), default=0) + 1)
        self._cuts = {cut.id: cut for cut in cuts if cut.segment >= segments[0]}
        self._cuts_of = Counter(cut.segment for cut in self._cuts.values())
        self._first = segments[0]
        self._raws: dict[int, bytes] = {}
        self._dirty: set[int] = set()
        self._known_keys: set[int] = set()
        self._is_orphan = is_abandoned(self.folder)
        self._is_ended = False
        self._last_words = LastWords(self.folder, self.header)
        self._resume(segments, cuts)

    @property
    def run(self) -> str:
        """The run's id."""
        return self.header.run

    def recovered(self) -> list[tuple[int, int]]:
        """Events (id, size about) that an earlier shipper cut, lowest first."""
        return [(number, cut.end - cut.start) for number, cut in sorted(self._cuts.items())]

    def recovered_stored(self) -> IdRanges:
        """Ids that must be stored, since their segments are trimmed."""
        last = min(self._cuts, default=self._cutter.next_id) - 1
        return IdRanges([(1, last)] if last else [])

    def poll(self, now: float, age_seconds: float, budget_bytes: int) -> int:
        """Read what was appended and cut what is due into :attr:`planned`.

        Returns:
            Bytes read.
        """
        total = 0
        planned_bytes = 0
        while total < budget_bytes and planned_bytes < budget_bytes:
            block, count = self._read()
            if not count and not self._advance():
                break
            total += count
            found = self._cutter.feed(self._segment, block, now)
            planned_bytes += sum(len(event.raw) for event in found)
            self.planned += found
        self.planned += self._cutter.flush(now, age_seconds)
        return total

    def new_blobs(self) -> list[PendingBlob]:
        """Records whose bytes are to be uploaded."""
        return self._cutter.new_blobs()

    def blob_path(self, blob: PendingBlob) -> Path:
        """Where the snapshot of a record is.

        Raises:
            JournalError: The record names a place outside the source's folder.
        """
        try:
            path = (self.folder / str(blob.record["blob"]["path"])).resolve()
        except (ValueError, OSError, RuntimeError) as error:
            raise JournalError(f"{blob.record['blob']} is no snapshot: {error}") from error
        if not path.is_relative_to((self.folder / BLOBS_NAME).resolve()):
            raise JournalError(f"{path} is no snapshot of this journal")
        return path

    def uploaded(
        self, blob: PendingBlob, described: dict[str, Any] | None, dataref: str | None
    ) -> None:
        """The bytes of a record are in the store, or gone for good (None)."""
        self.planned += self._cutter.uploaded(blob, described, dataref)

    def begin_commit(self) -> Commit | None:
        """What is to be synced before the planned events may be sent; None when there are none."""
        if not self.planned:
            return None
        # What is sent must not be forgotten by a power loss: its id would get other bytes.
        dirty = {event.cut.segment for event in self.planned} & self._dirty
        fds = {segment: self._segments.fd(segment) for segment in dirty}
        return Commit(list(self.planned), fds, self._cuts_file)

    def end_commit(self, commit: Commit) -> list[tuple[int, int]]:
        """The commit is on disk: the events (id, bytes) that may be sent now."""
        del self.planned[: len(commit.events)]
        self._dirty -= commit.segment_fds.keys()
        for event in commit.events:
            self._cuts[event.cut.id] = event.cut
            self._cuts_of[event.cut.segment] += 1
            self._raws[event.cut.id] = event.raw
        for event in commit.events:
            if "blob" in event.cut.extra:
                # It has done its duty; should it stay, it goes with the folder.
                with contextlib.suppress(OSError, JournalError):
                    self._drop_snapshot(event.cut)
        return [(event.cut.id, len(event.raw)) for event in commit.events]

    def event(self, number: int) -> tuple[str, bytes]:
        """Kind and bytes of a recorded event, from memory or made again.

        Raises:
            JournalError: Its part of the journal is damaged.
            OSError: It cannot be read.
        """
        cut = self._cuts.get(number)
        raw = self._raws.get(number)
        if cut is None:
            raise JournalError(f"event {number} was never cut")
        if raw is None:
            self._learn_keys(cut.segment)
            block = self._segments.stretch(cut.segment, cut.start, cut.end)
            raw = self._cutter.rebuild(cut, block)
        return _kind_of(raw), raw

    def forget_bytes(self, number: int) -> None:
        """The broker has it: should it be sent again, it is read from disk."""
        self._raws.pop(number, None)

    def stored(self, numbers: Iterable[int]) -> None:
        """These events are in the log: segments that only held them are removed.

        Raises:
            OSError: One cannot be removed; it is tried again with the next call.
        """
        for number in numbers:
            self.give_up(number)
        needed = [self._segment, *(event.cut.segment for event in self.planned)]
        needed += self._cuts_of.keys()
        oldest = self._cutter.oldest_segment
        if oldest is not None:
            needed.append(oldest)
        if min(needed) > self._first:
            self._trim(min(needed))

    def _trim(self, needed: int) -> None:
        for segment in self._segments.numbers():
            if segment < needed:
                self._dirty.discard(segment)
                self._segments.close(segment)
                self._segments.path(segment).unlink(missing_ok=True)
        self._cutter.forget_below(needed)
        self._known_keys = {segment for segment in self._known_keys if segment >= needed}
        self._first = needed

    def give_up(self, number: int) -> None:
        """The event is not asked for any more."""
        cut = self._cuts.pop(number, None)
        self._raws.pop(number, None)
        if cut is not None:
            self._cuts_of[cut.segment] -= 1
            if not self._cuts_of[cut.segment]:
                del self._cuts_of[cut.segment]

    @property
    def damaged(self) -> int:
        """Damaged lines met so far."""
        return self._cutter.damaged

    @property
    def is_finished(self) -> bool:
        """The end of the run was cut and recorded, and every event is stored."""
        return (
            self._cutter.has_end
            and not self._cutter.is_waiting
            and not self.planned
            and not self._cuts
        )

    @property
    def has_end(self) -> bool:
        """The end of the run has been read."""
        return self._cutter.has_end

    @property
    def is_live(self) -> bool:
        """A process still writes it."""
        return not self._cutter.has_end and not self._is_orphan

    def end_if_abandoned(self, wall_time: float) -> bool:
        """Write the end of the run into the journal when its process has died without one.

        Returns:
            The journal has just been ended.

        Raises:
            OSError: It cannot be read or written.
            JournalError: Its segments are gone.
        """
        if self._cutter.has_end or self._is_ended:
            return False
        if not self._is_orphan:
            # The lock first, the journal afterwards: what it held when its lock came free is all
            # there will be, and the end may be in what has not been read yet.
            self._is_orphan = is_abandoned(self.folder)
            return False
        if self.unread_bytes > self._reader.pending:
            return False
        words = self._last_words.find(wall_time)
        if words is None:
            return False
        write_end(self._segments.path(self._segments.numbers()[-1]), self.name, wall_time, words)
        self._is_ended = True
        return True

    @property
    def unread_bytes(self) -> int:
        """Journal bytes that were not read yet, or are no whole line yet.

        Raises:
            OSError: The folder cannot be read.
            JournalError: Its segments are gone.
        """
        total = -self._reader.offset
        for segment in self._segments.numbers():
            if segment >= self._segment:
                total += self._segments.size(segment)
        return max(total, 0)

    def remove(self) -> None:
        """Remove the folder: everything of it is stored.

        Raises:
            OSError: It cannot be removed.
        """
        self.close()
        # Renamed first, so that a kill in the middle leaves nothing that looks like a journal.
        trash = self.folder.with_name(f".{self.folder.name}.done")
        self.folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def close(self) -> None:
        """Close all files."""
        self._segments.close_all()
        self._cuts_file.close()

    def _resume(self, segments: list[int], cuts: list[Cut]) -> None:
        """Go on reading behind the last cut; find records before it that wait for an upload.

        And the end of the run: one that was cut must not be taken for a run left without an end.
        """
        self._segment, offset = max(
            ((cut.segment, cut.end) for cut in cuts), default=(segments[0], 0)
        )
        if self._segment < segments[0]:
            self._segment, offset = segments[0], 0
        self._reader = SegmentReader(offset)
        starts = {(cut.segment, cut.start) for cut in cuts}
        for segment in [s for s in segments if s <= self._segment] if cuts else []:
            for line in self._segments.records(segment):
                is_before = segment < self._segment or line.offset < offset
                is_cut = (segment, line.offset) in starts
                if is_before and not is_cut:
                    block = Block([line.offset], [line.payload or b""], [line.end])
                    self.planned += self._cutter.feed(segment, block, 0.0)
                elif is_cut and is_end(line.payload or b""):
                    self._cutter.has_end = True
            self._known_keys.add(segment)

    def _learn_keys(self, segment: int) -> None:
        if segment not in self._known_keys:
            self._known_keys.add(segment)
            for line in self._segments.records(segment):
                if line.payload is not None and line.payload.startswith(b'{"table":'):
                    self._cutter.learn(segment, line.payload)

    def _read(self) -> tuple[Block, int]:
        chunk = os.pread(self._segments.fd(self._segment), READ_BYTES, self._reader.position)
        if not chunk:
            return Block([], [], []), 0
        self._dirty.add(self._segment)
        return self._reader.take(chunk), len(chunk)

    def _advance(self) -> bool:
        """Go to the next segment if there is one: then this one is complete."""
        following = self._segment + 1
        if not self._segments.path(following).exists():
            return False
        # Written between our last read and the beginning of the next segment.
        chunk = os.pread(self._segments.fd(self._segment), READ_BYTES, self._reader.position)
        if chunk:
            return True
        if self._reader.finish() is not None:
            self._cutter.damaged += 1
        self._segment = following
        self._reader = SegmentReader()
        return True

    def _drop_snapshot(self, cut: Cut) -> None:
        """The bytes are in the store and the cut names them: the snapshot has done its duty."""
        (payload, *_) = self._segments.stretch(cut.segment, cut.start, cut.end).payloads or [b""]
        if not payload:
            return
        record = orjson.loads(payload)
        path = self.blob_path(PendingBlob(cut.segment, cut.start, cut.end, record))
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _name_of(header: SegmentHeader) -> Source:
    """The name of the source.

    Raises:
        JournalError: It is none, or the run or its project cannot be a part of a topic.
    """
    try:
        name = Source.parse(header.source)
        Topics().stored(header.project, header.run)
    except EventError as error:
        raise JournalError(f"the journal's header: {error}") from error
    if name.run != header.run:
        raise JournalError(f"the journal's header: run {header.run!r} is not {header.source}'s")
    return name


def _kind_of(raw: bytes) -> str:
    """The kind of an event we composed ourselves."""
    marker = b'"type":"trainbus.'
    at = raw.index(marker) + len(marker)
    return raw[at : raw.index(b".v1", at)].decode()
