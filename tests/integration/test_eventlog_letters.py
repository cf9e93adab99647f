"""The life of a dead letter in the event log, and a log of an older version."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import create_engine, text

from bus.errors import LogError
from bus.eventlog import DeadLetter, EventLog
from bus.eventlog.engine import parse_url
from bus.eventlog.records import DISCARDED, OPEN, RESOLVED, RETRIED
from tests.fixtures.logrecords import record, source_of

LETTER = DeadLetter("mlflow", source_of("r1"), 3, "r1", "digits", "permanent", "no", 2, 5.0, b"e")
NO_EVENT = DeadLetter("log", "", 0, "", "", "undecodable", "not JSON", 1, 5.0, b"\xff")


def state(log: EventLog, key: int = 1) -> tuple[str, int]:
    """State and attempts of a letter."""
    (letter,) = log.dead_letters(keys=[key])
    return letter.state, letter.attempts


def test_a_letter_that_is_given_up_once_more_after_a_retry_is_open_with_all_attempts(
    log: EventLog,
) -> None:
    log.add_dead_letter(LETTER)
    assert log.retry_dead_letters([1], now=10.0) == 1
    assert state(log) == (RETRIED, 2)
    # Told by the worker itself, and over the bus: the attempts count once.
    again = replace(LETTER, attempts=3, error="still no", time=11.0)
    assert [log.add_dead_letter(again), log.add_dead_letter(again)] == [True, False]
    assert state(log) == (OPEN, 5)
    (letter,) = log.dead_letters()
    assert (letter.error, letter.time) == ("still no", 11.0)


def test_a_late_word_of_the_time_before_does_not_undo_a_retry(log: EventLog) -> None:
    log.add_dead_letter(LETTER)
    log.retry_dead_letters([1], now=10.0)
    assert not log.add_dead_letter(LETTER)
    assert state(log) == (RETRIED, 2)


def test_a_letter_that_was_delivered_is_resolved_and_stays_so(log: EventLog) -> None:
    log.add_dead_letter(LETTER)
    log.retry_dead_letters([1], now=10.0)
    done = replace(LETTER, attempts=1, time=11.0, state=RESOLVED)
    assert [log.add_dead_letter(done), log.add_dead_letter(done)] == [True, False]
    assert state(log) == (RESOLVED, 3)
    assert log.retry_dead_letters([1], now=12.0) == 0
    assert log.discard_dead_letters([1], now=12.0) == 0
    assert not log.add_dead_letter(LETTER), "late"
    assert state(log) == (RESOLVED, 3)


def test_a_resolved_letter_of_a_sink_that_forgot_it_is_open_again(log: EventLog) -> None:
    log.add_dead_letter(LETTER)
    log.add_dead_letter(replace(LETTER, time=6.0, state=RESOLVED))
    assert log.add_dead_letter(replace(LETTER, time=7.0, attempts=1))
    assert state(log)[0] == OPEN
    late = replace(LETTER, time=6.0, state=RESOLVED)
    assert not log.add_dead_letter(late), "of the delivery before"


def test_that_an_event_was_delivered_is_no_letter(log: EventLog) -> None:
    assert not log.add_dead_letter(replace(LETTER, state=RESOLVED))
    assert log.dead_letters() == []


def test_a_discarded_letter_stays_closed_unless_it_is_asked_for(log: EventLog) -> None:
    log.add_dead_letter(LETTER)
    assert log.discard_dead_letters([1], now=10.0) == 1
    assert not log.add_dead_letter(replace(LETTER, time=20.0))
    assert state(log) == (DISCARDED, 2)
    assert log.retry_dead_letters([1], now=30.0) == 1


def test_what_was_never_an_event_can_only_be_discarded(log: EventLog) -> None:
    log.add_dead_letter(NO_EVENT)
    assert log.retry_dead_letters([1], now=10.0) == 0
    assert log.discard_dead_letters([1], now=10.0) == 1


def test_letters_are_found_by_state_and_number_and_counted(log: EventLog) -> None:
    for number in range(1, 4):
        log.add_dead_letter(replace(LETTER, id=number))
    log.retry_dead_letters([2], now=1.0)
    assert [letter.key for letter in log.dead_letters()] == [1, 2, 3]
    assert [letter.id for letter in log.dead_letters(states=[OPEN])] == [1, 3]
    assert [letter.id for letter in log.dead_letters(keys=[3, 9])] == [3]
    assert log.dead_letters(keys=[3], has_raw=False)[0].raw == b""
    assert log.count_dead_letters() == {("mlflow", OPEN): 2, ("mlflow", RETRIED): 1}
    assert log.retry_dead_letters(list(range(1, 2000)), now=2.0) == 3


def test_a_group_can_be_given_another_number_of_shards(log: EventLog) -> None:
    log.register_group("mlflow", 8, now=10.0)
    resized = log.resize_group("mlflow", 4)
    assert resized is not None
    assert (resized.shards, resized.started_at) == (4, 10.0)
    assert log.register_group("mlflow", 8, now=20.0) == resized
    assert log.resize_group("nobody", 4) is None


def make_version_1(url: str) -> None:
    """Turn an empty log into one as the first version made it."""
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX dead_letters_by_state"))
        for column in ("state", "state_at"):
            connection.execute(text(f"ALTER TABLE dead_letters DROP COLUMN {column}"))
        connection.execute(text("UPDATE log_meta SET version = 1"))
        connection.execute(
            text(
                "INSERT INTO dead_letters (sink_group, identity, source, id, run, project, reason,"
                " error, attempts, time, raw) VALUES ('mlflow', :identity, :source, 3, 'r1',"
                " 'digits', 'permanent', 'no', 2, 5.0, :raw)"
            ),
            {"identity": b"i", "source": source_of("r1"), "raw": b"e"},
        )
    engine.dispose()


@pytest.mark.parametrize("is_creator", [True, False])
def test_a_log_of_the_first_version_is_brought_along(log_url: str, is_creator: bool) -> None:
    with EventLog.open(log_url) as log:
        log.append([record(1)], now=1.0)
    make_version_1(log_url)
    for create in (is_creator, False):
        with EventLog.open(log_url, create=create) as log:
            assert log.dead_letters() == [LETTER]
            assert log.count_dead_letters() == {("mlflow", OPEN): 1}
            assert log.runs()[0].events == 1


def test_a_log_of_the_first_version_that_lacks_a_table_is_refused(log_url: str) -> None:
    EventLog.open(log_url).close()
    make_version_1(log_url)
    engine = create_engine(parse_url(log_url))
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE losses"))
    engine.dispose()
    with pytest.raises(LogError, match="a damaged one"):
        EventLog.open(log_url)
