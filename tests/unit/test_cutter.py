"""How the lines of a journal become events."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bus.errors import JournalError
from bus.events import MAX_EVENT_BYTES, Event, decode
from bus.kinds import Metrics, RunFinished
from publishers.journal.format import SegmentHeader, make_line
from publishers.journal.reader import Block, SegmentReader
from publishers.shipper.cutter import COALESCE_BYTES, Cutter, PlannedEvent
from tests.fixtures.roadparts import SOURCE

HEADER = SegmentHeader(1, 1, SOURCE, "r1", "digits", "mlp", 1)
TIME = 1767225600.5


def payload(value: Any) -> bytes:
    return value if isinstance(value, bytes) else orjson.dumps(value)


def block(*values: Any, offset: int = 0) -> Block:
    """Sound lines; None is a damaged one."""
    lines = [b"damaged\n" if value is None else make_line(payload(value)) for value in values]
    return SegmentReader(offset).take(b"".join(lines))


def table(number: int = 1, keys: list[str] | None = None) -> dict[str, Any]:
    return {"table": number, "keys": ["loss"] if keys is None else keys}


def row(number: int = 1, step: int = 0, *values: float, time: float = TIME) -> list[Any]:
    return [number, time, step, *(values or (0.5,))]


def record(kind: str = "tags", data: Any = None, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "time": TIME, "data": {"set": {}} if data is None else data, **fields}


def end(**data: Any) -> dict[str, Any]:
    return record("run_finished", {"status": "completed", **data})


def events(planned: list[PlannedEvent]) -> list[Event]:
    """What every reader must be able to read."""
    found = [decode(one.raw) for one in planned]
    assert [one.kind for one in found] == [one.kind for one in planned]
    assert [one.id for one in found] == [one.cut.id for one in planned]
    return found


def rows(event: Event) -> list[list[Any]]:
    assert isinstance(event.data, Metrics)
    return [values for one in event.data.tables for values in one.rows]


def test_rows_recorded_close_together_are_one_event() -> None:
    cutter = Cutter(HEADER)
    assert cutter.feed(1, block(table(), row(step=1), row(step=2)), 0.0) == []
    assert cutter.flush(0.04, 0.05) == []
    (event,) = events(cutter.flush(0.05, 0.05))
    assert rows(event) == [[TIME, 1, 0.5], [TIME, 2, 0.5]]
    assert event.time == TIME
    assert not cutter.is_waiting


def test_any_other_record_ends_the_event_before_it() -> None:
    cutter = Cutter(HEADER)
    planned = cutter.feed(1, block(table(), row(), record(), row()), 0.0)
    assert [event.kind for event in events(planned)] == ["metrics", "tags"]
    assert cutter.is_waiting


def test_an_event_of_rows_never_grows_much() -> None:
    cutter = Cutter(HEADER)
    many = [row(step=step) for step in range(5000)]
    planned = cutter.feed(1, block(table(), *many), 0.0) + cutter.flush(1.0, 0.0)
    assert [one for event in events(planned) for one in rows(event)] == [
        [TIME, step, 0.5] for step in range(5000)
    ]
    assert all(len(one.raw) <= COALESCE_BYTES for one in planned)


def test_the_names_of_many_wide_tables_do_not_make_an_event_too_large() -> None:
    cutter = Cutter(HEADER)
    tables = [table(n, [f"{n}/{'x' * 40}/{key}" for key in range(1000)]) for n in range(1, 9)]
    values = [0.5] * 1000
    cutter.feed(1, block(*tables), 0.0)
    wide = [row(n, n, *values) for n in range(1, 9)]
    planned = cutter.feed(1, block(*wide), 0.0) + cutter.flush(1.0, 0.0)
    assert sorted(one[1] for event in events(planned) for one in rows(event)) == list(range(1, 9))
    assert cutter.unmade == 0


def test_a_table_of_names_as_long_as_can_be_still_fits() -> None:
    cutter = Cutter(HEADER)
    keys = [f"{n:03d}" + "k" * 1010 for n in range(190)]
    many = [row(1, step, *[0.125] * 190) for step in range(200)]
    cutter.feed(1, block(table(1, keys)), 0.0)
    planned = cutter.feed(1, block(*many), 0.0) + cutter.flush(1.0, 0.0)
    assert sum(len(rows(event)) for event in events(planned)) == 200
    assert max(len(one.raw) for one in planned) <= MAX_EVENT_BYTES


def test_a_record_with_bytes_waits_for_its_upload_and_later_ones_overtake_it() -> None:
    cutter = Cutter(HEADER)
    blob = {"path": "blobs/1", "name": "last.pt", "is_folder": False}
    described = {"name": "last.pt", "size": 3, "sha256": "0" * 64, "is_folder": False}
    fed = block(record("checkpoint", {"epoch": 1}, blob=blob), record())
    (overtaking,) = events(cutter.feed(1, fed, 0.0))
    assert (overtaking.kind, overtaking.id) == ("tags", 1)
    (pending,) = cutter.new_blobs()
    assert cutter.new_blobs() == []
    assert cutter.oldest_segment == 1
    (event,) = events(cutter.uploaded(pending, described, "file:///store/x"))
    assert (event.kind, event.id, event.dataref) == ("checkpoint", 2, "file:///store/x")
    assert cutter.oldest_segment is None


def test_the_end_of_the_run_waits_for_uploads_and_says_what_was_not_made() -> None:
    cutter = Cutter(HEADER)
    blob = {"path": "blobs/1", "name": "last.pt"}
    fed = block(record("artifact", {"path": "x"}, blob=blob), None, end(dropped={"disk_full": 2}))
    assert cutter.feed(1, fed, 0.0) == []
    assert cutter.has_end
    assert cutter.flush(1.0, 0.0) == []
    assert cutter.uploaded(cutter.new_blobs()[0], None, None) == []
    (last,) = events(cutter.flush(1.0, 0.0))
    assert isinstance(last.data, RunFinished)
    assert last.data.last_id == last.id == 1
    assert last.data.dropped == {"disk_full": 2, "damaged_line": 1, "not_made": 1}


def test_a_damaged_line_costs_only_itself() -> None:
    cutter = Cutter(HEADER)
    fed = block(table(), row(step=1), None, row(step=2), row(number=9), row(step=3))
    cutter.feed(1, fed, 0.0)
    (event,) = events(cutter.flush(1.0, 0.0))
    assert [values[1] for values in rows(event)] == [1, 2, 3]
    assert cutter.damaged == 2


@pytest.mark.parametrize(
    "nonsense",
    [
        b"[]",
        b"[1]",
        b"[x,1,2,3]",
        b'[1,"never",2,3]',
        b"[1,1e300,2,3]",
        b"[1,,2,3]",
        b"{}",
        b"{",
        b"null",
        b"7",
        b'"text"',
        b'{"kind":"tags"}',
        b'{"kind":["tags"],"time":1,"data":{}}',
        b'{"kind":"No Kind","time":1,"data":{}}',
        b'{"kind":"tags","time":1,"data":[]}',
        b'{"kind":"tags","time":"soon","data":{}}',
        b'{"kind":"tags","time":1e300,"data":{}}',
        b'{"kind":"artifact","time":1,"data":{},"blob":"x"}',
        b'{"kind":"artifact","time":1,"data":{},"blob":{}}',
        b'{"kind":"run_finished","time":1,"data":null}',
        b'{"table":"x","keys":[]}',
        b'{"table":1}',
        b'{"table":1,"keys":null}',
    ],
)
def test_a_sound_line_that_makes_no_sense_counts_as_damaged(nonsense: bytes) -> None:
    cutter = Cutter(HEADER)
    planned = cutter.feed(1, block(table(), nonsense, row(), record()), 0.0)
    assert [event.kind for event in events(planned)] == ["metrics", "tags"]
    assert cutter.damaged == 1
    assert not cutter.has_end


def test_an_end_with_odd_counts_is_an_end() -> None:
    cutter = Cutter(HEADER)
    cutter.feed(1, block(None, end(dropped={"damaged_line": "x"})), 0.0)
    (last,) = events(cutter.flush(1.0, 0.0))
    assert isinstance(last.data, RunFinished)
    assert last.data.dropped == {"damaged_line": 1}


def test_a_record_no_broker_would_take_gets_no_id() -> None:
    cutter = Cutter(HEADER)
    big = record("tags", {"set": {"a": "x" * MAX_EVENT_BYTES}})
    assert [event.id for event in events(cutter.feed(1, block(big, record()), 0.0))] == [1]
    assert cutter.unmade == 1


def test_an_event_is_made_again_with_the_same_bytes_by_another_cutter() -> None:
    first = Cutter(HEADER)
    lines = block(table(1), table(2, ["a", "b"]), row(), row(2, 0, 1.0, 2.0), row(), record())
    planned = first.feed(1, lines, 0.0)
    second = Cutter(HEADER, 7)
    second.learn(1, payload(table(1)))
    second.learn(1, payload(table(2, ["a", "b"])))
    for one in planned:
        first_line = lines.starts.index(one.cut.start)
        stop = lines.ends.index(one.cut.end) + 1
        stretch = Block(
            lines.starts[first_line:stop],
            lines.payloads[first_line:stop],
            lines.ends[first_line:stop],
        )
        assert second.rebuild(one.cut, stretch) == one.raw


def test_what_a_later_segment_says_does_not_change_an_event_of_an_earlier_one() -> None:
    cutter = Cutter(HEADER)
    lines = block(table(1), row(), row(2, 0, 1.0), row())  # nobody named table 2 here
    cutter.feed(1, lines, 0.0)
    (one,) = cutter.flush(1.0, 0.0)
    cutter.feed(2, block(table(2, ["late"])), 2.0)
    stretch = Block(lines.starts[1:], lines.payloads[1:], lines.ends[1:])
    assert cutter.rebuild(one.cut, stretch) == one.raw


def test_an_event_whose_stretch_is_damaged_cannot_be_made_again() -> None:
    cutter = Cutter(HEADER)
    lines = block(table(), row())
    cutter.feed(1, lines, 0.0)
    (one,) = cutter.flush(1.0, 0.0)
    with pytest.raises(JournalError):
        cutter.rebuild(one.cut, Block([one.cut.start], [b""], [one.cut.end]))
    with pytest.raises(JournalError):
        cutter.rebuild(one.cut, Block([one.cut.start], [b"[1,x]"], [one.cut.end]))
