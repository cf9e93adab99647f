"""What the event log promises about events, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, text

from bus.errors import LogError
from bus.eventlog import EventLog, Selection
from bus.eventlog.engine import parse_url
from tests.fixtures.logrecords import record, source_of

KIB = 1024


def test_an_append_keeps_the_exact_bytes_and_says_what_is_stored(log: EventLog) -> None:
    raws = {1: b"\x00\xff{not json", 2: b"", 3: bytes(range(256)) * KIB}
    result = log.append([record(n, raw=raw) for n, raw in raws.items()], now=50.0)
    state = result.states[source_of("r1")]
    assert (str(state.stored), str(state.lost), state.changed_at) == ("1-3", "", 50.0)
    assert (state.run, state.project, state.run_name) == ("r1", "digits", "mlp")
    assert (result.duplicates, result.conflicts) == (0, [])
    assert {e.id: e.raw for e in log.read(source_of("r1"), 1, 3)} == raws


def test_nothing_to_append_changes_nothing(log: EventLog) -> None:
    assert log.append([], now=1.0).states == {}


def test_a_duplicate_is_counted_and_its_source_is_named(log: EventLog) -> None:
    log.append([record(1), record(2)], now=50.0)
    result = log.append([record(2), record(2), record(1)], now=60.0)
    assert (result.duplicates, result.conflicts) == (3, [])
    state = result.states[source_of("r1")]
    assert (str(state.stored), state.changed_at) == ("1-2", 50.0)
    assert log.count(Selection()) == (2, 8)


def test_of_two_different_events_with_one_id_the_first_stays(log: EventLog) -> None:
    source = source_of("r1")
    log.append([record(1, raw=b"first")], now=50.0)
    result = log.append([record(1, raw=b"other"), record(2)], now=60.0)
    assert (result.duplicates, result.conflicts) == (1, [(source, 1)])
    result = log.append([record(3, raw=b"x"), record(3, raw=b"y"), record(3, raw=b"x")], now=70.0)
    assert (result.duplicates, result.conflicts) == (2, [(source, 3)])
    assert [e.raw for e in log.read(source, 1, 3)] == [b"first", b"r1/2", b"x"]


def test_ids_may_come_in_any_order_and_leave_holes(log: EventLog) -> None:
    log.append([record(7), record(2), record(9)], now=1.0)
    state = log.append([record(8), record(1)], now=2.0).states[source_of("r1")]
    assert str(state.stored) == "1-2,7-9"
    assert [e.id for e in log.read(source_of("r1"), 2, 8)] == [2, 7, 8]


def test_very_large_ids_and_many_sources_at_once(log: EventLog) -> None:
    names = [source_of("r1", rank) for rank in range(300)]
    result = log.append([record(10**17, source=name) for name in names], now=1.0)
    assert {str(state.stored) for state in result.states.values()} == {str(10**17)}
    assert [state.source for state in log.sources("r1")] == sorted(names)


def test_sources_of_one_run_are_told_apart_by_project(log: EventLog) -> None:
    log.append([record(1), record(1, source=source_of("r1", 1), project="other")], now=1.0)
    assert len(log.sources("r1")) == 2
    assert [s.project for s in log.sources("r1", "other")] == ["other"]
    assert log.sources("nobody") == []


def test_changed_since_names_sources_whose_state_changed_at_or_after_a_time(
    log: EventLog,
) -> None:
    log.append([record(1, "a")], now=10.0)
    log.append([record(1, "b")], now=20.0)
    log.append([record(1, "c")], now=30.0)
    log.append([record(1, "a")], now=40.0)
    assert [s.run for s in log.changed_since(20.0)] == ["b", "c"]
    log.record_lost(source_of("a"), 2, 2, "trimmed", now=50.0)
    assert [s.run for s in log.changed_since(30.0)] == ["c", "a"]


def test_a_clock_that_goes_back_does_not_hide_a_change(log: EventLog) -> None:
    log.append([record(1)], now=100.0)
    state = log.append([record(2)], now=40.0).states[source_of("r1")]
    assert state.changed_at == 100.0


def test_read_stops_at_either_limit_but_never_before_the_first_event(log: EventLog) -> None:
    source = source_of("r1")
    log.append([record(n, raw=bytes(100)) for n in range(1, 11)], now=1.0)
    assert [e.id for e in log.read(source, 3, 9, limit_events=2)] == [3, 4]
    assert [e.id for e in log.read(source, 3, 9, limit_bytes=350)] == [3, 4, 5]
    assert [e.id for e in log.read(source, 3, 9, limit_bytes=1)] == [3]
    assert log.read(source, 11, 20) == []
    assert log.read("/runs/x/0/1-1-0123456789abcdef/n", 1, 9) == []


def test_a_read_event_says_where_it_stands(log: EventLog) -> None:
    log.append([record(1, kind="params", time=12.5)], now=1.0)
    (event,) = log.read(source_of("r1"), 1, 1)
    assert (event.source, event.id, event.kind, event.time) == (source_of("r1"), 1, "params", 12.5)
    assert event.offset >= 1


def test_lost_ids_block_nobody_and_are_named(log: EventLog) -> None:
    source = source_of("r1")
    log.append([record(3), record(6)], now=1.0)
    state = log.record_lost(source, 1, 5, "trimmed", now=2.0)
    assert state is not None
    assert (str(state.stored), str(state.lost)) == ("1-6", "1-2,4-5")
    assert log.sources("r1") == [state]
    (first, second) = log.losses("r1")
    assert (first.first, first.last, first.reason, second.first) == (1, 2, "trimmed", 4)


def test_losing_what_is_there_changes_nothing(log: EventLog) -> None:
    log.append([record(1), record(2)], now=1.0)
    state = log.record_lost(source_of("r1"), 1, 2, "trimmed", now=2.0)
    assert state is not None
    assert (str(state.lost), state.changed_at) == ("", 1.0)
    assert log.record_lost("/runs/x/0/1-1-0123456789abcdef/n", 1, 2, "trimmed", now=2.0) is None


def test_a_lost_event_that_turns_up_is_stored_and_no_longer_lost(log: EventLog) -> None:
    source = source_of("r1")
    log.append([record(5)], now=1.0)
    log.record_lost(source, 1, 4, "trimmed", now=2.0)
    result = log.append([record(2), record(2)], now=3.0)
    state = result.states[source]
    assert (str(state.stored), str(state.lost), state.changed_at) == ("1-5", "1,3-4", 3.0)
    assert result.duplicates == 1
    assert [e.id for e in log.read(source, 1, 5)] == [2, 5]


def test_a_selection_streams_each_source_in_id_order_and_all_by_time(log: EventLog) -> None:
    left, right = source_of("r1", 0), source_of("r1", 1)
    late_first = [record(2, source=left, time=20.0), record(1, source=left, time=30.0)]
    log.append(late_first, now=1.0)
    log.append([record(n, source=right, time=t) for n, t in ((1, 10.0), (2, 40.0))], now=1.0)
    # Id 1 of the left source was overtaken by id 2; it still comes first.
    found = [(e.source, e.id) for e in log.select(Selection(run="r1"))]
    assert found == [(right, 1), (left, 1), (left, 2), (right, 2)]


def test_a_selection_is_read_in_pages(log: EventLog) -> None:
    raw = bytes(100 * KIB)
    sources = [source_of("r1", rank) for rank in range(3)]
    records = [record(n, source=s, raw=raw) for n in range(1, 13) for s in sources]
    log.append(records, now=1.0)
    found = [(e.source, e.id, len(e.raw)) for e in log.select(Selection(run="r1"), chunk=1)]
    assert sorted(found) == sorted((r.source, r.id, len(raw)) for r in records)


def test_a_selection_takes_every_filter(log: EventLog) -> None:
    log.append([record(n) for n in range(1, 6)], now=1.0)
    log.append([record(1, "r2", project="other", kind="params", time=1003.0)], now=1.0)
    log.append([record(1, "r3", kind="tags", time=5000.0)], now=1.0)

    def ids(selection: Selection) -> list[tuple[str, int]]:
        found = [(e.source.split("/")[2], e.id) for e in log.select(selection)]
        events, size = log.count(selection)
        assert events == len(found)
        assert size == 4 * len(found)
        return found

    assert len(ids(Selection())) == 7
    assert ids(Selection(run="r2")) == [("r2", 1)]
    assert ids(Selection(run=("r2", "r3"))) == [("r2", 1), ("r3", 1)]
    assert ids(Selection(project="other")) == [("r2", 1)]
    assert ids(Selection(kinds=frozenset({"params", "tags"}))) == [("r2", 1), ("r3", 1)]
    assert ids(Selection(run="r1", since=1002.0, until=1004.0)) == [("r1", 2), ("r1", 3)]
    assert ids(Selection(source=source_of("r3"))) == [("r3", 1)]
    assert ids(Selection(run="nobody")) == []
    offset = log.read(source_of("r1"), 4, 4)[0].offset
    assert ids(Selection(run="r1", after_offset=offset)) == [("r1", 5)]


def test_what_is_stored_is_there_when_the_log_is_opened_again(log_url: str) -> None:
    first = EventLog.open(log_url)
    first.append([record(1)], now=1.0)
    first.close()
    second = EventLog.open(log_url, create=False)
    assert str(second.sources("r1")[0].stored) == "1"
    second.close()


def test_two_openers_of_an_empty_database_agree(log_url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        logs = list(pool.map(lambda _: EventLog.open(log_url), range(8)))
    logs[0].append([record(1)], now=1.0)
    assert [len(log.sources("r1")) for log in logs] == [1] * 8
    for log in logs:
        log.close()


def test_threads_that_append_to_the_same_sources_leave_ranges_equal_to_rows(
    log: EventLog,
) -> None:
    names = [source_of("r1", rank) for rank in range(5)]

    def write(worker: int) -> int:
        duplicates = 0
        for start in range(1, 101, 10):
            ids = range(start, start + 10)
            order = names if worker % 2 else names[::-1]
            batch = [record(n, source=name) for name in order for n in ids]
            duplicates += log.append(batch, now=float(start)).duplicates
        return duplicates

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(write, range(4))) == 3 * 5 * 100
    assert {str(state.stored) for state in log.sources("r1")} == {"1-100"}
    assert log.count(Selection())[0] == 500
    assert log.runs()[0].events == 500


def test_a_database_that_holds_other_tables_is_refused(log_url: str) -> None:
    engine = create_engine(parse_url(log_url))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE experiments (id INTEGER)"))
    engine.dispose()
    with pytest.raises(LogError, match=r"holds other tables \(experiments, …\)") as caught:
        EventLog.open(log_url)
    assert not caught.value.is_retryable


def test_a_log_of_a_newer_version_is_refused(log_url: str) -> None:
    EventLog.open(log_url).close()
    engine = create_engine(parse_url(log_url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE log_meta SET version = 99"))
    engine.dispose()
    with pytest.raises(LogError, match="version 99, this trainbus knows 2"):
        EventLog.open(log_url)


def test_an_empty_database_is_no_log_for_who_only_reads(log_url: str) -> None:
    with pytest.raises(LogError, match="there is no event log at"):
        EventLog.open(log_url, create=False)
