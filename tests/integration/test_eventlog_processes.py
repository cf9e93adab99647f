"""Several processes on one event log, and what is left when they or the server are killed."""

from __future__ import annotations

import pytest
from psycopg import sql

from bus.errors import LogError
from bus.eventlog import EventLog, LogRecord, Selection
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.processes import Processes, wait_until

RUN = "r1"
SOURCES = [f"/runs/{RUN}/{rank}/1-1-0123456789abcdef/n" for rank in range(4)]

WRITER = """
import sys
from bus.eventlog import EventLog, LogRecord

url, first, batches, size, order = sys.argv[1:]
sources = [f"/runs/r1/{rank}/1-1-0123456789abcdef/n" for rank in range(4)][::int(order)]
log = EventLog.open(url)
for batch in range(int(batches)):
    start = int(first) + batch * 10
    log.append(
        [
            LogRecord(s, n, "r1", "p", "n", "metrics", float(n), b"%d " % n * int(size))
            for s in sources
            for n in range(start, start + 10)
        ],
        now=float(start),
    )
    print(start + 9, flush=True)
log.close()
"""


def check_ranges_are_rows(log: EventLog) -> None:
    for state in log.sources(RUN):
        rows = [event.id for event in log.select(Selection(source=state.source))]
        held = [n for first, last in state.stored for n in range(first, last + 1)]
        assert rows == held
    totals = log.runs()[0]
    assert log.count(Selection()) == (totals.events, totals.bytes)


def test_two_processes_that_store_the_same_events_store_them_once(
    log: EventLog, log_url: str, processes: Processes
) -> None:
    writers = [
        processes.python("-c", WRITER, log_url, first, "40", "100", order, name="writer")
        for first, order in (("1", "1"), ("1", "-1"), ("201", "1"))
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert {str(state.stored) for state in log.sources(RUN)} == {"1-600"}
    check_ranges_are_rows(log)


@pytest.mark.parametrize("acked_before_kill", [1, 7, 23])
def test_a_writer_killed_in_the_middle_leaves_all_it_was_told_is_stored(
    log: EventLog, log_url: str, processes: Processes, acked_before_kill: int
) -> None:
    writer = processes.python("-c", WRITER, log_url, "1", "100000", "20000", "1", name="writer")
    wait_until(lambda: writer.stdout.count("\n") >= acked_before_kill, 30, "appends are reported")
    writer.kill()
    acked = max(int(line) for line in writer.stdout.split("\n")[:-1])
    check_ranges_are_rows(log)
    for state in log.sources(RUN):
        assert state.stored.contiguous >= acked
    again = log.append(
        [LogRecord(s, 10**6, RUN, "p", "n", "metrics", 1.0, b"x") for s in SOURCES], now=1.0
    )
    assert len(again.states) == 4


def test_a_postgresql_that_ends_our_sessions_is_worth_another_try(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    log = EventLog.open(postgres_url)
    record = LogRecord(SOURCES[0], 1, RUN, "p", "n", "metrics", 1.0, b"x")
    log.append([record], now=1.0)
    postgres_server.execute(
        sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}").format(
            sql.Literal(postgres_url.rsplit("/", 1)[1])
        )
    )
    with pytest.raises(LogError) as caught:
        log.append([record], now=2.0)
    assert caught.value.is_retryable
    assert log.append([record], now=3.0).duplicates == 1
    log.close()


def test_a_wrong_password_or_database_is_not_worth_another_try(
    postgres_server: PostgresServer,
) -> None:
    with pytest.raises(LogError, match="does not exist") as caught:
        EventLog.open(postgres_server.url("nowhere"))
    assert not caught.value.is_retryable


def test_postgresql_syncs_a_commit_even_if_its_default_is_not_to(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    name = sql.Identifier(postgres_url.rsplit("/", 1)[1])
    postgres_server.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))
    log = EventLog.open(postgres_url)
    with log._engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    log.close()


def test_postgresql_does_not_use_its_slow_compression_for_events(postgres_url: str) -> None:
    with EventLog.open(postgres_url) as log, log._engine.connect() as connection:
        row = connection.exec_driver_sql(
            "SELECT attcompression, attstorage FROM pg_attribute "
            "WHERE attrelid = 'events'::regclass AND attname = 'raw'"
        ).one()
    assert row[0] == "l" or row[1] == "e"
