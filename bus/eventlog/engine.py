"""From a database URL to an engine that keeps the log's promises.

SQLite: WAL; ``synchronous=FULL``, so that a commit that has returned is synced; 32 KiB pages,
because events are large (measured: a third less CPU than with 4 KiB); ``BEGIN`` is sent by us,
because the driver would begin too late, and as ``BEGIN IMMEDIATE`` for writers, because a
transaction that reads first and writes then fails at once when another one wrote in between.
https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable

PostgreSQL: psycopg 3; READ COMMITTED, which the row locks of an append are made for; and
``synchronous_commit`` is put back on if the server's default is off.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from bus.errors import ConfigError

__all__ = ["WRITE_OPTION", "engine_for", "parse_url"]

WRITE_OPTION = "trainbus_write"
"""Execution option of an engine whose transactions write."""

BUSY_TIMEOUT_SECONDS = 15
PAGE_BYTES = 32768
CHECKPOINT_PAGES = 2000

_EXAMPLE = "use sqlite:///path/log.db or postgresql://user:password@host/database"
_POSTGRES = {"postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"}
_POSTGRES_OPTIONS = {
    "application_name": "trainbus",
    "connect_timeout": "10",
    # A server that vanished without a word is noticed within half a minute.
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


def parse_url(text: str) -> URL:
    """Read a database URL; PostgreSQL's are brought to psycopg 3, whatever driver they name.

    Raises:
        ConfigError: It is no URL, or of a database we do not support.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError(f"the event log's URL is malformed: {_EXAMPLE}") from None
    shown = url.render_as_string(hide_password=True)
    if url.drivername in _POSTGRES:
        if not url.database:
            raise ConfigError(f"event log {shown}: the URL names no database: {_EXAMPLE}")
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in {"sqlite", "sqlite+pysqlite"}:
        raise ConfigError(f"event log {shown}: {url.drivername} is not supported: {_EXAMPLE}")
    if url.host or not url.database or url.database == ":memory:":
        raise ConfigError(f"event log {shown}: the URL names no file: {_EXAMPLE}")
    return url


def engine_for(url: URL) -> Engine:
    """Make the engine. Nothing is connected yet.

    Raises:
        ConfigError: The driver is not installed.
    """
    try:
        if url.get_backend_name() == "sqlite":
            return _sqlite_engine(url)
        return _postgres_engine(url)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise ConfigError(
            f"the event log on PostgreSQL needs psycopg: pip install 'trainbus[log]' ({error})"
        ) from error


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        # Only has an effect before the first table, and has to come before WAL.
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        _enter_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        is_write = connection.get_execution_options().get(WRITE_OPTION)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")

    return engine


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. The busy timeout does not cover this, so two first openers need a retry."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _postgres_engine(url: URL) -> Engine:
    options = {name: text for name, text in _POSTGRES_OPTIONS.items() if name not in url.query}
    engine = create_engine(url, isolation_level="READ COMMITTED", connect_args=options)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', false) "
                "WHERE current_setting('synchronous_commit') = 'off'"
            )
        connection.commit()

    return engine


def file_of(url: URL) -> Path | None:
    """The file of a SQLite URL; None for any other database."""
    if url.get_backend_name() != "sqlite" or url.database is None:
        return None
    return Path(url.database)
