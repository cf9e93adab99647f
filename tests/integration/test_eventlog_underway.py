"""Which runs the event log takes for being under way, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

from bus.eventlog import EventLog, RunUnderWay
from bus.source import Source
from tests.fixtures.logrecords import finished, record, source_of, started


def word(run: str) -> str:
    """The source of what the log group says about the node of a run."""
    return str(Source.parse(source_of(run)).loss())


def under_way(log: EventLog, since: float = 0.0) -> list[str]:
    return [run.run for run in log.runs_under_way(since)]


def test_a_run_is_under_way_until_each_of_its_sources_has_ended(log: EventLog) -> None:
    log.append([started(2), started(2, rank=1)], now=10.0)
    log.append([record(1, "r2", project="other", run_name="cnn")], now=10.0)
    log.append([finished(2, "completed")], now=11.0)
    assert log.runs_under_way(0.0) == [
        RunUnderWay("digits", "r1", "mlp", (source_of("r1", 1),)),
        RunUnderWay("other", "r2", "cnn", (source_of("r2"),)),
    ]
    log.append([finished(2, "failed", rank=1)], now=12.0)
    assert under_way(log) == ["r2"]


def test_a_run_that_has_said_nothing_for_long_is_under_way_if_asked_from_before(
    log: EventLog,
) -> None:
    log.append([record(1, "quiet")], now=10.0)
    log.append([record(1, "busy")], now=5000.0)
    assert under_way(log) == ["busy", "quiet"]
    assert under_way(log, since=11.0) == ["busy"]


def test_a_run_of_a_lost_node_is_not_under_way_until_the_node_returns(log: EventLog) -> None:
    log.append([record(1)], now=10.0)
    log.append([record(1, source=word("r1"), kind="run_finished")], now=20.0)
    assert under_way(log) == []
    log.append([record(2, source=word("r1"), kind="run_started")], now=30.0)
    assert under_way(log) == ["r1"]
    log.append([record(3, source=word("r1"), kind="run_finished")], now=40.0)
    assert under_way(log) == []


def test_a_run_that_was_started_again_is_under_way_though_its_first_attempt_was_lost(
    log: EventLog,
) -> None:
    again = source_of("r1", attempt=2)
    log.append([record(1), record(1, source=word("r1"), kind="run_finished")], now=10.0)
    log.append([record(1, source=again)], now=20.0)
    (run,) = log.runs_under_way(0.0)
    assert run.sources == (again,)


def test_one_run_alone_is_asked_for_by_project_and_id(log: EventLog) -> None:
    log.append([record(1), record(1, "r2")], now=10.0)
    assert [run.run for run in log.runs_under_way(0.0, ("digits", "r1"))] == ["r1"]
    assert log.runs_under_way(0.0, ("other", "r1")) == []


def test_many_lost_nodes_are_told_from_many_that_are_not(log: EventLog) -> None:
    log.append([record(1, f"r{n}") for n in range(1200)], now=10.0)
    words = [
        record(1, source=word(f"r{n}"), run=f"r{n}", kind="run_finished") for n in range(0, 1200, 2)
    ]
    log.append(words, now=10.0)
    assert sorted(under_way(log)) == sorted(f"r{n}" for n in range(1, 1200, 2))


def test_the_first_events_of_a_kind_are_given_by_source(log: EventLog) -> None:
    one, other, late = source_of("r1"), source_of("r2"), source_of("r3")
    log.append([started(1), record(1, "r2"), record(2, "r3", kind="run_started")], now=10.0)
    found = log.first_events([one, other, late, source_of("nobody")], "run_started")
    assert list(found) == [one]
    assert b"run_started" in found[one]
    assert log.first_events([], "run_started") == {}
