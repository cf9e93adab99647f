"""What an append decides before it touches the database."""

from __future__ import annotations

from bus.eventlog.append import make_plan
from bus.eventlog.records import LogRecord
from bus.idranges import IdRanges


def record(number: int, raw: bytes = b"x") -> LogRecord:
    return LogRecord("s", number, "r", "p", "n", "metrics", 1.0, raw)


def test_ids_in_the_log_are_duplicates_and_others_are_new() -> None:
    plan = make_plan([record(1), record(4), record(2)], IdRanges([(1, 3)]), IdRanges())
    assert [r.id for r in plan.fresh] == [4]
    assert [r.id for r in plan.known] == [1, 2]


def test_a_lost_id_is_new() -> None:
    plan = make_plan([record(2)], IdRanges([(1, 3)]), IdRanges([(2, 3)]))
    assert [r.id for r in plan.fresh] == [2]


def test_the_same_record_twice_in_one_call_is_inserted_once() -> None:
    one = record(1)
    plan = make_plan([one, one, record(1, b"y"), record(1, b"x")], IdRanges(), IdRanges())
    assert [r.raw for r in plan.fresh] == [b"x"]
    assert (plan.repeated, plan.conflicts) == (3, [1])
