"""What the event log knows of runs, groups and dead letters, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from bus.eventlog import DeadLetter, EventLog, Selection
from tests.fixtures.logrecords import finished, record, source_of, started


def test_counts_are_given_for_each_run(log: EventLog) -> None:
    log.append([record(1), record(2), record(1, "r2", project="other", run_name="x")], now=1.0)
    counts = log.count_runs(Selection())
    assert [(c.project, c.run, c.run_name, c.events, c.bytes) for c in counts] == [
        ("digits", "r1", "mlp", 2, 8),
        ("other", "r2", "x", 1, 4),
    ]


def test_runs_are_listed_with_what_the_log_holds_latest_first(log: EventLog) -> None:
    log.append([record(1, "old", time=1.0), record(3, "old", time=9.0)], now=1.0)
    log.append([record(1, "new", time=50.0), record(1, "new", source=source_of("new", 1))], now=1.0)
    log.record_lost(source_of("old"), 2, 2, "trimmed", now=2.0)
    new, old = log.runs()
    assert (old.run, old.events, old.bytes, old.first_time, old.last_time) == ("old", 2, 10, 1, 9)
    assert (old.lost, old.sources, old.status) == (1, 1, None)
    assert (new.run, new.events, new.sources) == ("new", 2, 2)
    assert [r.run for r in log.runs(limit=1)] == ["new"]
    assert log.runs(project="nobody") == []


def test_a_run_has_a_status_once_every_rank_has_finished(log: EventLog) -> None:
    log.append([record(1), record(1, source=source_of("r1", 1))], now=1.0)
    log.append([finished(2, "completed")], now=1.0)
    assert log.runs()[0].status is None
    log.append([finished(2, "failed", rank=1)], now=1.0)
    assert log.runs()[0].status == "failed"
    log.append([finished(5, "completed", rank=1, attempt=2)], now=1.0)
    assert log.runs()[0].status == "completed"
    assert set(log.finished("r1")) == {
        source_of("r1", 0),
        source_of("r1", 1),
        source_of("r1", 1, attempt=2),
    }


def test_a_run_has_no_status_while_a_rank_of_its_world_has_not_been_heard_of(
    log: EventLog,
) -> None:
    log.append([started(2), finished(2, "completed")], now=1.0)
    assert log.runs(run="r1")[0].status is None
    log.append([finished(1, "killed", rank=1)], now=1.0)
    assert log.runs(run="r1")[0].status == "killed"
    assert log.runs(run="nobody") == []


def test_an_unreadable_end_does_not_hide_the_run(log: EventLog) -> None:
    log.append([record(1, kind="run_finished", raw=b"nonsense")], now=1.0)
    assert [(r.run, r.status) for r in log.runs()] == [("r1", None)]


def test_ids_are_told_by_source_and_kind(log: EventLog) -> None:
    other = source_of("r1", 1)
    log.append([record(1, kind="params"), record(2), record(3), record(1, source=other)], now=1.0)
    found = {
        (source, kind): str(ids)
        for source, kinds in log.ids_by_kind("r1").items()
        for kind, ids in kinds.items()
    }
    assert found == {
        (source_of("r1"), "metrics"): "2-3",
        (source_of("r1"), "params"): "1",
        (other, "metrics"): "1",
    }


def test_a_run_is_found_by_id_and_else_by_name(log: EventLog) -> None:
    log.append([record(1, "mlp", run_name="x"), record(1, "r2", run_name="mlp")], now=1.0)
    log.append([record(1, "r3", run_name="x", project="other")], now=1.0)
    assert log.find_runs("mlp") == [("digits", "mlp")]
    assert log.find_runs("x") == [("digits", "mlp"), ("other", "r3")]
    assert log.find_runs("nobody") == []


def test_a_dead_letter_is_kept_once(log: EventLog) -> None:
    letter = DeadLetter(
        "mlflow", source_of("r1"), 3, "r1", "digits", "permanent", "no", 1, 5.0, b"e"
    )
    again = DeadLetter("mlflow", source_of("r1"), 3, "r1", "digits", "other", "x", 9, 6.0, b"e")
    other = DeadLetter("clearml", source_of("r1"), 3, "r1", "digits", "permanent", "", 1, 7.0, b"e")
    assert [log.add_dead_letter(each) for each in (letter, again, other)] == [True, False, True]
    assert log.dead_letters() == [letter, other]
    assert log.dead_letters(group="clearml") == [other]
    assert log.dead_letters(run="r2") == []
    assert log.dead_letters(run="r1", project="digits") == [letter, other]


def test_undecodable_dead_letters_are_told_apart_by_their_bytes(log: EventLog) -> None:
    first = DeadLetter("log", "", 0, "", "", "undecodable", "not JSON", 1, 5.0, b"\xff\x00")
    other = DeadLetter("log", "", 0, "", "", "undecodable", "not JSON", 1, 6.0, b"\xff\x01")
    assert [log.add_dead_letter(each) for each in (first, other, first)] == [True, True, False]
    assert log.dead_letters() == [first, other]


def test_a_group_is_registered_once(log: EventLog) -> None:
    assert log.groups() == []
    first = log.register_group("mlflow", 8, now=10.0)
    assert log.register_group("mlflow", 4, now=20.0) == first
    log.register_group("clearml", 2, now=30.0)
    assert [(g.group, g.shards, g.started_at) for g in log.groups()] == [
        ("clearml", 2, 30.0),
        ("mlflow", 8, 10.0),
    ]


def test_the_start_of_a_group_only_moves_back(log: EventLog) -> None:
    log.register_group("mlflow", 8, now=10.0)
    assert (moved := log.move_group_start("mlflow", 0.0)) and moved.started_at == 0.0
    assert (moved := log.move_group_start("mlflow", 5.0)) and moved.started_at == 0.0
    assert log.move_group_start("nobody", 5.0) is None


def test_sink_state_is_replaced(log: EventLog) -> None:
    assert log.get_sink_state("hub", "digits", "r1") is None
    log.put_sink_state("hub", "digits", "r1", b"\x00one")
    log.put_sink_state("hub", "digits", "r1", b"\xfftwo")
    log.put_sink_state("hub", "digits", "r2", b"")
    assert log.get_sink_state("hub", "digits", "r1") == b"\xfftwo"
    assert log.get_sink_state("hub", "digits", "r2") == b""


def test_sink_state_is_swapped_only_for_the_value_that_is_there(log: EventLog) -> None:
    name = ("hub", "digits", "r1")
    assert not log.swap_sink_state(*name, before=b"\x00one", value=b"two")
    assert log.get_sink_state(*name) is None
    assert log.swap_sink_state(*name, before=None, value=b"\x00one")
    assert not log.swap_sink_state(*name, before=None, value=b"two")
    assert not log.swap_sink_state(*name, before=b"\x00", value=b"two")
    assert log.get_sink_state(*name) == b"\x00one"
    assert log.swap_sink_state(*name, before=b"\x00one", value=b"\xfftwo")
    assert log.get_sink_state(*name) == b"\xfftwo"
    assert log.swap_sink_state("hub", "digits", "r2", before=None, value=b"")
    assert log.swap_sink_state("hub", "digits", "r2", before=b"", value=b"x")
    # A value that stays the same counts as swapped too.
    assert log.swap_sink_state(*name, before=b"\xfftwo", value=b"\xfftwo")


def test_of_many_who_swap_the_same_value_one_succeeds(log: EventLog) -> None:
    def swap(before: bytes | None, value: bytes) -> bool:
        return log.swap_sink_state("hub", "digits", "r1", before, value)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(swap, [None] * 8, [b"first"] * 8)).count(True) == 1
        values = [bytes([number]) for number in range(8)]
        assert list(pool.map(swap, [b"first"] * 8, values)).count(True) == 1


@pytest.mark.parametrize("name", ["nul\x00nul", "\x01\x00\x01\x02", "quote'\"%s:x\\", "日本 🚀"])
def test_names_of_any_characters_come_back_as_they_were(log: EventLog, name: str) -> None:
    source = source_of(name)
    log.append([record(1, name, project=name, run_name=name, source=source)], now=1.0)
    (state,) = log.sources(name, name)
    assert (state.source, state.run, state.project, state.run_name) == (source, name, name, name)
    assert log.find_runs(name) == [(name, name)]
    log.add_dead_letter(DeadLetter("g", source, 1, name, name, name, name, 1, 1.0, b""))
    assert log.dead_letters(run=name)[0].error == name
