from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from publishers.journal.format import make_line, segment_name
from publishers.journal.reader import SegmentReader
from publishers.journal.writer import JournalWriter, NoJournal, Table, cause_of

TABLE = Table(1, ("loss",), b'{"table":1,"keys":["loss"]}')
ROW = b"[1,1.5,0,0.25]"
RECOVERY = b'{"recovered":true}'


def header(number: int) -> bytes:
    return b'{"segment":%d}' % number


class Disk:
    """``os.write`` that fails or falls short on request."""

    def __init__(self) -> None:
        self.plan: list[int | None] = []
        self.calls = 0

    def write(self, fd: int, data: bytes) -> int:
        """Write; the next entry of the plan is an errno (negative), a length, or None for all."""
        self.calls += 1
        step = self.plan.pop(0) if self.plan else None
        if step is None:
            return os.write(fd, data)
        if step < 0:
            raise OSError(-step, os.strerror(-step))
        return os.write(fd, data[:step]) if step else 0


class Journal:
    """A writer on a disk that can be made to fail, and what it wrote."""

    def __init__(self, folder: Path, segment_bytes: int = 1 << 20) -> None:
        self.folder = folder
        self.disk = Disk()
        self.failures: list[OSError] = []
        self.writer = JournalWriter(
            folder,
            header,
            self.failures.append,
            lambda: RECOVERY,
            segment_bytes=segment_bytes,
            write=self.disk.write,
        )

    def segments(self) -> list[list[bytes | None]]:
        """The payloads of every segment; None for a damaged line."""
        found = []
        for number in range(1, 1000):
            path = self.folder / segment_name(number)
            if not path.exists():
                break
            reader = SegmentReader()
            lines = [line.payload for line in reader.feed(path.read_bytes())]
            tail = reader.finish()
            found.append([*lines, None] if tail else lines)
        return found

    def payloads(self) -> list[bytes | None]:
        """All of them, without headers."""
        return [payload for segment in self.segments() for payload in segment[1:]]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def test_a_segment_begins_with_its_header(journal: Journal) -> None:
    assert journal.segments() == [[header(1)]]


def test_a_table_is_named_twice_before_its_first_row_and_not_again(journal: Journal) -> None:
    assert journal.writer.append(ROW, TABLE)
    assert journal.writer.append(ROW, TABLE)
    assert journal.payloads() == [TABLE.declaration, TABLE.declaration, ROW, ROW]


def test_a_row_of_a_named_table_takes_one_write(journal: Journal) -> None:
    journal.writer.append(ROW, TABLE)
    calls = journal.disk.calls
    declared = journal.writer.declared
    assert declared == {("loss",): 1}
    assert journal.writer.append_row(make_line(ROW), declared)
    assert journal.disk.calls == calls + 1
    assert journal.payloads()[-2:] == [ROW, ROW]


def test_a_record_leaves_the_tables_named(journal: Journal) -> None:
    journal.writer.append(ROW, TABLE)
    declared = journal.writer.declared
    journal.writer.append(b"{}")
    assert journal.writer.declared is declared


def test_a_full_segment_is_followed_by_one_where_tables_are_named_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=200)
    rows = [b"[1,1.5,%d,0.25]" % step for step in range(20)]
    for row in rows:
        declared = journal.writer.declared
        if ("loss",) not in declared or not journal.writer.append_row(make_line(row), declared):
            assert journal.writer.append(row, TABLE)
    segments = journal.segments()
    assert len(segments) > 3
    for number, segment in enumerate(segments, 1):
        assert segment[:3] == [header(number), TABLE.declaration, TABLE.declaration]
    assert [row for segment in segments for row in segment[3:]] == rows


def test_a_row_for_a_segment_that_is_not_open_any_more_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=100)
    journal.writer.append(ROW, TABLE)
    stale: dict[tuple[object, ...], int] = {("loss",): 1}
    assert not journal.writer.append_row(make_line(ROW), stale)


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EIO, "io_error"),
        (errno.EROFS, "io_error"),
    ],
)
def test_a_failed_write_is_reported_and_the_next_succeeds(
    journal: Journal, number: int, cause: str
) -> None:
    journal.disk.plan = [-number]
    assert not journal.writer.append(b"{}")
    assert [cause_of(error) for error in journal.failures] == [cause]
    assert journal.writer.append(b'{"b":1}')
    assert journal.payloads() == [b'{"b":1}', RECOVERY]


def test_a_short_write_damages_only_itself_and_is_made_good_at_once(journal: Journal) -> None:
    journal.disk.plan = [7]
    assert journal.writer.append(b'{"a":1}')
    assert journal.writer.append(b'{"b":1}')
    assert journal.payloads() == [None, b'{"a":1}', b'{"b":1}']
    assert not journal.failures


def test_a_row_short_of_its_newline_is_not_written_twice(journal: Journal) -> None:
    journal.writer.append(ROW, TABLE)
    line = make_line(b"[1,2.5,1,0.5]")
    journal.disk.plan = [len(line) - 1]
    assert journal.writer.append_row(line, journal.writer.declared)
    assert journal.writer.append(ROW, TABLE)
    assert journal.payloads()[2:] == [ROW, b"[1,2.5,1,0.5]", ROW]


def test_a_row_that_fails_on_the_short_way_is_written_the_long_way(journal: Journal) -> None:
    journal.writer.append(ROW, TABLE)
    journal.disk.plan = [-errno.EIO]
    assert not journal.writer.append_row(make_line(ROW), journal.writer.declared)
    assert journal.writer.append(ROW, TABLE)
    assert journal.payloads()[2:] == [ROW, ROW]
    assert not journal.failures


def test_a_table_whose_naming_failed_is_named_before_its_next_row(journal: Journal) -> None:
    journal.disk.plan = [-errno.ENOSPC]
    assert not journal.writer.append(ROW, TABLE)
    assert ("loss",) not in journal.writer.declared
    assert journal.writer.append(ROW, TABLE)
    assert journal.payloads() == [TABLE.declaration, TABLE.declaration, ROW, RECOVERY]


def test_a_torn_naming_is_repeated_whole(journal: Journal) -> None:
    journal.disk.plan = [30]
    assert journal.writer.append(ROW, TABLE)
    assert journal.payloads() == [None, TABLE.declaration, TABLE.declaration, ROW]


def test_a_full_disk_costs_one_failed_write_per_record(journal: Journal) -> None:
    journal.writer.append(ROW, TABLE)
    journal.disk.plan = [-errno.ENOSPC] * 50
    calls = journal.disk.calls
    for _ in range(50):
        assert ("loss",) not in journal.writer.declared or journal.disk.calls == calls
        journal.writer.append(ROW, TABLE)
    assert journal.disk.calls == calls + 50
    assert len(journal.failures) == 50


def test_the_usual_way_is_open_again_after_a_failure(journal: Journal) -> None:
    journal.writer.append(ROW, TABLE)
    journal.disk.plan = [-errno.ENOSPC]
    journal.writer.append(ROW, TABLE)
    journal.writer.append(ROW, TABLE)
    assert journal.writer.declared == {("loss",): 1}


def test_when_no_segment_can_be_made_the_old_one_is_used_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=100)
    journal.writer.append(ROW, TABLE)
    journal.disk.plan = [-errno.ENOSPC]
    assert journal.writer.append(ROW, TABLE)
    assert len(journal.segments()) == 1
    assert journal.payloads()[2:] == [ROW, ROW]
    assert not journal.failures
    assert sorted(path.name for path in tmp_path.iterdir()) == [segment_name(1)]


def test_a_file_size_limit_leads_to_a_new_segment(journal: Journal) -> None:
    journal.writer.append(ROW, TABLE)
    journal.disk.plan = [-errno.EFBIG]
    assert journal.writer.append(ROW, TABLE)
    assert journal.segments() == [
        [header(1), TABLE.declaration, TABLE.declaration, ROW],
        [header(2), TABLE.declaration, TABLE.declaration, ROW],
    ]


def test_a_file_size_limit_below_one_record_makes_no_more_than_one_segment_a_call(
    journal: Journal,
) -> None:
    journal.disk.plan = [-errno.EFBIG, None, -errno.EFBIG]
    assert not journal.writer.append(b"{}")
    assert len(journal.segments()) == 2


def test_a_first_segment_that_cannot_be_written_is_an_error_and_leaves_no_file(
    tmp_path: Path,
) -> None:
    disk = Disk()
    disk.plan = [3]
    with pytest.raises(OSError, match="only a part of the header"):
        JournalWriter(tmp_path, header, lambda error: None, lambda: b"", write=disk.write)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_journal_reports_what_comes_late(journal: Journal) -> None:
    journal.writer.append(ROW, TABLE)
    declared = journal.writer.declared
    journal.writer.close()
    journal.writer.close()
    assert not journal.writer.append_row(make_line(ROW), declared)
    assert not journal.writer.append(ROW, TABLE)
    assert [cause_of(error) for error in journal.failures] == ["io_error"]


def test_closing_ends_a_line_that_lacks_only_its_newline(journal: Journal) -> None:
    journal.disk.plan = [len(make_line(b"{}")) - 1]
    assert journal.writer.append(b"{}")
    journal.writer.close()
    assert journal.payloads() == [b"{}"]


def test_no_journal_reports_every_record() -> None:
    records: list[int] = []
    nothing = NoJournal(lambda: records.append(1))
    assert not nothing.declared
    assert not nothing.append_row(b"", {})
    assert not nothing.append(b"{}")
    nothing.close()
    assert records == [1]


def nested(journal: Journal, action: Callable[[], object]) -> Callable[[int, bytes], int]:
    """A ``write`` in the middle of which something else happens, as in a signal handler."""
    actions = [action]

    def write(fd: int, data: bytes) -> int:
        if actions:
            actions.pop()()
        return os.write(fd, data)

    return write


def test_what_a_signal_handler_logs_in_the_middle_of_a_record_comes_after_it(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path)
    journal.writer._write = nested(journal, lambda: journal.writer.append(b'{"late":1}'))
    assert journal.writer.append(ROW, TABLE)
    assert journal.payloads() == [TABLE.declaration, TABLE.declaration, ROW, b'{"late":1}']
    assert journal.writer.declared == {("loss",): 1}


def test_a_signal_handler_may_close_the_journal_in_the_middle_of_a_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.writer._write = nested(journal, journal.writer.close)
    assert journal.writer.append(ROW, TABLE)
    assert journal.payloads() == [TABLE.declaration, TABLE.declaration, ROW]
    assert not journal.writer.append(b"{}")


def test_an_interruption_in_the_middle_of_a_record_leaves_the_next_ones_sound(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path)

    def interrupt() -> None:
        raise KeyboardInterrupt

    journal.writer._write = nested(journal, interrupt)
    with pytest.raises(KeyboardInterrupt):
        journal.writer.append(ROW, TABLE)
    assert journal.writer.append(ROW, TABLE)
    assert journal.payloads() == [TABLE.declaration, TABLE.declaration, ROW]


def test_several_threads_lose_and_mix_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=5_000)
    tables = [Table(n, (f"k{n}",), b'{"table":%d,"keys":["k%d"]}' % (n, n)) for n in range(4)]

    def work(table: Table) -> None:
        for step in range(300):
            row = b"[%d,1.5,%d]" % (table.number, step)
            declared = journal.writer.declared
            if table.keys not in declared or not journal.writer.append_row(
                make_line(row), declared
            ):
                journal.writer.append(row, table)

    threads = [threading.Thread(target=work, args=(table,)) for table in tables]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    steps: dict[int, list[int]] = {table.number: [] for table in tables}
    for segment in journal.segments():
        known = set()
        for payload in segment[1:]:
            assert payload is not None
            record = orjson.loads(payload)
            if isinstance(record, dict):
                known.add(record["table"])
            else:
                assert record[0] in known
                steps[record[0]].append(record[2])
    assert all(found == list(range(300)) for found in steps.values())
