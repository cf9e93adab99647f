"""The journal against a model: whatever the disk does, what was confirmed can be read, in order."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from publishers.journal.format import make_line, parse_header, segment_name
from publishers.journal.reader import Line, SegmentReader
from publishers.journal.writer import JournalWriter, Table

_WORST = [-errno.ENOSPC, -errno.EIO, -errno.EDQUOT, -errno.EFBIG]
_tables = [Table(n, (f"k{n}",), b'{"table":%d,"keys":["k%d"]}' % (n, n)) for n in range(1, 5)]
_steps = st.one_of(st.none(), st.sampled_from(_WORST), st.floats(0.0, 1.0), st.just(-1.0))


def header(number: int) -> bytes:
    return orjson.dumps(
        {
            "journal": 1,
            "segment": number,
            "source": "/runs/r/0/1-0-0000000000000000/n",
            "run": "r",
            "project": "p",
            "run_name": "n",
            "pid": 1,
        }
    )


def lines_of(data: bytes, chunk_bytes: int) -> list[Line]:
    reader = SegmentReader()
    lines: list[Line] = []
    for start in range(0, len(data), chunk_bytes):
        lines += reader.feed(data[start : start + chunk_bytes])
    tail = reader.finish()
    return [*lines, tail] if tail else lines


class JournalModel(RuleBasedStateMachine):
    """Writes through a disk that fails in every way, and reads the files back."""

    @initialize(segment_bytes=st.integers(1, 2_000))
    def open(self, segment_bytes: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.plan: list[float | int | None] = []
        self.confirmed: list[bytes] = []
        self.refused: set[bytes] = set()
        self.failures = 0
        self.count = 0
        self.writer = JournalWriter(
            self.folder,
            header,
            self.fail,
            lambda: b'{"recovered":1}',
            segment_bytes=segment_bytes,
            write=self.write,
        )

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            self.writer.close()
            shutil.rmtree(self.folder)

    def fail(self, error: OSError) -> None:
        self.failures += 1
        if "could not be ended" in str(error):
            # A row short of its newline, and then the file may not grow any more: counted as lost.
            self.refused.add(self.confirmed.pop())

    def write(self, fd: int, data: bytes) -> int:
        step = self.plan.pop(0) if self.plan else None
        if step is None:
            return os.write(fd, data)
        if isinstance(step, float):
            # A share of the bytes; all but the newline when negative.
            length = len(data) - 1 if step < 0 else int(step * len(data))
            return os.write(fd, data[:length])
        raise OSError(-step, os.strerror(-step))

    def note(self, payload: bytes, is_written: bool) -> None:
        if is_written:
            self.confirmed.append(payload)
        else:
            self.refused.add(payload)

    @rule(steps=st.lists(_steps, max_size=6))
    def disturb(self, steps: list[float | int | None]) -> None:
        self.plan = steps

    @rule(table=st.sampled_from(_tables))
    def log_row(self, table: Table) -> None:
        self.count += 1
        row = b"[%d,1.5,%d]" % (table.number, self.count)
        declared = self.writer.declared
        is_written = table.keys in declared and self.writer.append_row(make_line(row), declared)
        self.note(row, is_written or self.writer.append(row, table))

    @rule()
    def write_record(self) -> None:
        self.count += 1
        record = b'{"record":%d}' % self.count
        self.note(record, self.writer.append(record))

    @invariant()
    def every_refused_record_was_reported(self) -> None:
        if hasattr(self, "writer"):
            assert self.failures >= len(self.refused)

    @invariant()
    def what_was_confirmed_can_be_read_in_order(self) -> None:
        if not hasattr(self, "writer"):
            return
        found: list[bytes] = []
        number = 1
        while (path := self.folder / segment_name(number)).exists():
            data = path.read_bytes()
            # The newline of the last line may be still to come.
            if number == self.writer._segment and self.writer._is_unended:
                data += b"\n"
            found += self.read_segment(data, number)
            number += 1
        assert found == self.confirmed

    def read_segment(self, data: bytes, number: int) -> list[bytes]:
        lines = lines_of(data, 64)
        assert lines == lines_of(data, 7)
        assert lines[0].payload is not None
        assert parse_header(lines[0].payload).segment == number
        known: set[int] = set()
        found = []
        for line in lines[1:]:
            if line.payload is None:
                continue
            record = orjson.loads(line.payload)
            if isinstance(record, list):
                assert record[0] in known, "a row stands before the naming of its table"
            elif "table" in record:
                known.add(record["table"])
                continue
            elif "recovered" in record:
                continue
            found.append(line.payload)
        return found


JournalModel.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestJournalModel = JournalModel.TestCase


def test_a_cut_at_every_byte_leaves_a_prefix_of_what_was_written(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, header, lambda error: None, lambda: b"{}")
    rows = [b"[1,1.5,%d]" % step for step in range(12)]
    for row in rows:
        writer.append(row, _tables[0])
    writer.close()
    data = (tmp_path / segment_name(1)).read_bytes()
    start = data.index(make_line(rows[0]))
    for cut in range(start, len(data) + 1):
        sound = [line.payload for line in lines_of(data[:cut], 50) if line.payload]
        assert sound[3:] == rows[: data[start:cut].count(b"\n")]
