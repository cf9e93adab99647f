"""Cutting a journal: nothing is lost and nothing is done twice, whatever the shipper lives through.

Any content, read in any chunks at any times, by shippers that are killed at any point: before their
cuts were written, half way through writing them, or after. Events whose cut is recorded have the
same bytes for ever; every sound row is in exactly one event and in order; a damaged line costs only
itself; blobs are asked for until they are uploaded; the end of the run comes last.
"""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bus.events import Event, decode
from bus.kinds import Metrics, RunFinished
from publishers.journal.format import SegmentHeader, make_line
from publishers.journal.reader import SegmentReader
from publishers.shipper import cutter as cutter_module
from publishers.shipper.cuts import Cut, CutsFile
from publishers.shipper.cutter import Cutter, PlannedEvent
from publishers.shipper.source import JournalSource
from tests.fixtures.roadparts import SOURCE, JournalFolder

TIME = 1767225600.0
DESCRIBED = {"name": "x", "size": 5, "sha256": "0" * 64, "is_folder": False}
KEYS = {1: ["loss"], 2: ["a", "b" * 30], 3: ["c" * 200]}


@pytest.fixture(autouse=True, scope="module")
def small_events() -> Any:
    """Events of few rows, so that short journals make many."""
    before = cutter_module.COALESCE_BYTES
    cutter_module.COALESCE_BYTES = 300
    yield
    cutter_module.COALESCE_BYTES = before


def steps_of(event: Event) -> list[int]:
    assert isinstance(event.data, Metrics)
    return sorted(int(row[1]) for table in event.data.tables for row in table.rows)


class CutterMachine(RuleBasedStateMachine):
    """A trainer that writes, and shippers that come and go."""

    @initialize()
    def begin(self) -> None:
        self.temporary = tempfile.TemporaryDirectory()
        self.journal = JournalFolder(Path(self.temporary.name) / "0-1")
        self.step = 0
        self.rows: set[int] = set()
        """Steps of sound rows."""
        self.records: set[str] = set()
        self.blobs: set[str] = set()
        self.has_end = False
        self.now = 0.0
        self.sent: dict[int, bytes] = {}
        """Events as they were first sent."""
        self.stored: set[int] = set()
        self.new_segment()
        self.source = JournalSource(self.journal.folder)

    def teardown(self) -> None:
        if not hasattr(self, "source"):
            return
        try:
            self.deliver_everything()
        finally:
            self.source.close()
            self.temporary.cleanup()

    # -- the trainer

    @precondition(lambda self: not self.has_end)
    @rule()
    def new_segment(self) -> None:
        self.journal.begin_segment()
        self.declared: set[int] = set()

    @precondition(lambda self: not self.has_end)
    @rule(table=st.sampled_from(sorted(KEYS)), count=st.integers(1, 6))
    def log_rows(self, table: int, count: int) -> None:
        if table not in self.declared:
            self.journal.table(table, KEYS[table])
            self.declared.add(table)
        for _ in range(count):
            self.step += 1
            self.rows.add(self.step)
            self.journal.line([table, TIME + self.step, self.step, *[0.5] * len(KEYS[table])])

    @precondition(lambda self: not self.has_end)
    @rule()
    def log_a_record(self) -> None:
        self.step += 1
        self.records.add(f"t{self.step}")
        self.journal.record("tags", {"set": {"n": f"t{self.step}"}})

    @precondition(lambda self: not self.has_end)
    @rule()
    def log_a_blob(self) -> None:
        self.step += 1
        self.blobs.add(f"b{self.step}")
        self.journal.blob(f"b{self.step}")

    @precondition(lambda self: not self.has_end)
    @rule(garbage=st.sampled_from([b"xyz\n", b"\n", b"00000000 {}\n", b"torn"]))
    def something_breaks(self, garbage: bytes) -> None:
        """As a short write leaves it: the next line begins on a line of its own."""
        self.journal.write(garbage if garbage.endswith(b"\n") else garbage + b"\n")

    @precondition(lambda self: not self.has_end)
    @rule()
    def end_the_run(self) -> None:
        self.has_end = True
        self.journal.end()

    # -- the shipper

    @rule(budget=st.sampled_from([1, 10**6]), age=st.sampled_from([0.0, 1.0]))
    def poll(self, budget: int, age: float) -> None:
        self.now += 0.5
        if not self.source.planned:
            self.source.poll(self.now, age, budget)

    @rule()
    def commit(self) -> None:
        under_way = self.source.begin_commit()
        if under_way is None:
            return
        under_way.sync()
        for number, _ in self.source.end_commit(under_way):
            assert number not in self.sent, "an id was given twice"
            self.sent[number] = self.source.event(number)[1]

    @precondition(lambda self: self.source.planned)
    @rule(data=st.data())
    def kill_while_the_cuts_are_written(self, data: st.DataObject) -> None:
        lines = b"".join(make_line(event.cut.payload()) for event in self.source.planned)
        if self.source._cuts_file._needs_newline:
            lines = b"\n" + lines
        kept = lines[: data.draw(st.integers(0, len(lines)))]
        path = self.journal.folder / "cuts"
        with path.open("ab") as file:
            file.write(kept)
        self.restart()

    @rule()
    def restart(self) -> None:
        """Killed and started again: nothing in memory survives."""
        self.source.close()
        self.source = JournalSource(self.journal.folder)
        recovered = [number for number, _ in self.source.recovered()]
        for number in recovered:
            # Recorded and perhaps never sent: from now on these are its bytes.
            raw = self.source.event(number)[1]
            assert self.sent.setdefault(number, raw) == raw, "other bytes under the same id"
        known = set(recovered) | set(range(1, self.source.recovered_stored().top + 1))
        assert self.sent.keys() <= known | self.stored

    @rule(data=st.data())
    def upload(self, data: st.DataObject) -> None:
        for blob in self.source.new_blobs():
            if data.draw(st.booleans()):
                self.source.uploaded(blob, DESCRIBED, f"file:///{blob.start}")
            else:
                # The upload fails for now; the source would not ask again, a new shipper does.
                self.commit()
                self.restart()
                return

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def store(self, data: st.DataObject) -> None:
        numbers = data.draw(st.sets(st.sampled_from(sorted(self.sent))))
        self.stored |= numbers
        self.source.stored(sorted(numbers))

    # -- what has to hold

    @invariant()
    def resends_are_byte_identical(self) -> None:
        for number, _ in self.source.recovered():
            if number in self.sent:
                self.source.forget_bytes(number)
                assert self.source.event(number)[1] == self.sent[number]

    def deliver_everything(self) -> None:
        if not self.has_end:
            self.end_the_run()
        self.commit()
        for _ in range(1000):
            self.now += 10.0
            before = len(self.sent)
            count = self.source.poll(self.now, 0.0, 10**6)
            for blob in self.source.new_blobs():
                self.source.uploaded(blob, DESCRIBED, f"file:///{blob.start}")
            self.commit()
            if not count and len(self.sent) == before:
                break
        events = [decode(self.sent[number]) for number in sorted(self.sent)]
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        steps = [step for event in events if event.kind == "metrics" for step in steps_of(event)]
        assert steps == sorted(self.rows), "rows lost, doubled or out of order"
        tags = [event.data.set["n"] for event in events if event.kind == "tags"]  # type: ignore[union-attr]  # by its kind
        assert sorted(tags) == sorted(self.records)
        assert sum(event.kind == "artifact" for event in events) == len(self.blobs)
        last = events[-1].data
        assert isinstance(last, RunFinished)
        assert last.last_id == len(events)
        self.source.stored(range(1, len(events) + 1))
        assert self.source.is_finished


TestCutter = CutterMachine.TestCase
TestCutter.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


HEADER = SegmentHeader(1, 1, SOURCE, "r1", "digits", "mlp", 1)
some_lines = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([1, 2, 9]), st.integers(0, 99)).map(
            lambda drawn: b"[%d,%d.5,%d,0.25]" % (drawn[0], drawn[1], drawn[1])
        ),
        st.sampled_from(
            [
                b'{"table":1,"keys":["loss"]}',
                b'{"table":2,"keys":["lr"]}',
                b'{"kind":"tags","time":5,"data":{"set":{}}}',
                b'{"kind":"run_finished","time":5,"data":{"status":"completed"}}',
            ]
        ),
        st.binary(min_size=1, max_size=12).filter(lambda raw: b"\n" not in raw),
    ),
    max_size=40,
)


@given(
    some_lines,
    st.lists(st.integers(0, 2000), max_size=6),
    st.sets(st.integers(0, 39), max_size=4),
)
def test_the_cut_is_the_same_for_every_chunking(
    payloads: list[bytes], cuts: list[int], damaged: set[int]
) -> None:
    lines = [make_line(payload) for payload in payloads]
    for index in damaged & set(range(len(lines))):
        lines[index] = b"~" + lines[index][1:]
    data = b"".join(lines)

    def cut_in(places: list[int]) -> tuple[list[PlannedEvent], int, int]:
        reader, cutter = SegmentReader(), Cutter(HEADER)
        edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
        found: list[PlannedEvent] = []
        for start, end in pairwise(edges):
            found += cutter.feed(1, reader.take(data[start:end]), 0.0)
        found += cutter.flush(100.0, 0.0)
        return found, cutter.damaged, cutter.unmade

    assert cut_in(cuts) == cut_in([])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8, unique=True), st.data())
def test_a_cuts_file_torn_at_any_byte_gives_a_prefix(
    numbers: list[int], data: st.DataObject
) -> None:
    written = [Cut(number, 1, number * 10, number * 10 + 5) for number in sorted(numbers)]
    lines = b"".join(make_line(cut.payload()) for cut in written)
    kept = lines[: data.draw(st.integers(0, len(lines)))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cuts"
        path.write_bytes(kept)
        file = CutsFile(path)
        found = file.read()
        assert found == written[: len(found)]
        file.append(written[len(found) :])
        assert file.read() == written
        file.close()
