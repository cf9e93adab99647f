"""Making the tables, once, bringing older ones along, and refusing databases that are not ours."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError

from bus.errors import LogError
from bus.eventlog.schema import SCHEMA_VERSION, log_meta, metadata

__all__ = ["prepare"]

_STEPS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE dead_letters ADD COLUMN state TEXT NOT NULL DEFAULT 'open'",
        "ALTER TABLE dead_letters ADD COLUMN state_at DOUBLE PRECISION",
        "CREATE INDEX dead_letters_by_state ON dead_letters (sink_group, state)",
    ),
}
"""What brings the tables of a version to the next one. A version that is at work meanwhile goes on:
steps only add what has a default."""

_POSTGRES_LOCK = 0x7472_6169_6E62  # "trainb": any number that others do not use


def prepare(reader: Engine, writer: Engine, place: str, create: bool) -> None:
    """Check the tables, bring older ones along, or make them in an empty database.

    Raises:
        LogError: The database holds something else, a newer log, or nothing and ``create`` is
            False.
    """
    with reader.begin() as connection:
        version = _version(connection, place)
    if version == SCHEMA_VERSION:
        return
    if version is None and not create:
        raise LogError(f"there is no event log at {place}")
    with writer.begin() as connection:
        if connection.dialect.name == "postgresql":
            # Two first workers at once; on SQLite BEGIN IMMEDIATE keeps them apart.
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:number)"), {"number": _POSTGRES_LOCK}
            )
        version = _version(connection, place)
        if version is None:
            _make(connection)
        elif version != SCHEMA_VERSION:
            _bring_along(connection, version)


def _make(connection: Connection) -> None:
    metadata.create_all(connection)
    if connection.dialect.name == "postgresql":
        _choose_compression(connection)
    connection.execute(insert(log_meta), {"version": SCHEMA_VERSION})


def _bring_along(connection: Connection, version: int) -> None:
    for step in range(version, SCHEMA_VERSION):
        for statement in _STEPS[step]:
            connection.execute(text(statement))
    connection.execute(update(log_meta).values(version=SCHEMA_VERSION))


def _choose_compression(connection: Connection) -> None:
    """Store event bytes with lz4, or as they are where the server has no lz4 (before 14).

    PostgreSQL's default compression takes most of the time of an append: measured with events of
    57 KB, 200 to 500 per second; with lz4 2,300, in the same space.
    """
    try:
        with connection.begin_nested():
            connection.execute(text("ALTER TABLE events ALTER raw SET COMPRESSION lz4"))
    except DBAPIError:
        connection.execute(text("ALTER TABLE events ALTER raw SET STORAGE EXTERNAL"))


def _version(connection: Connection, place: str) -> int | None:
    """The version of the tables that are there; None for an empty database."""
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    missing = sorted(set(metadata.tables) - tables)
    if log_meta.name not in tables:
        raise LogError(
            f"{place} is no event log but holds other tables "
            f"({', '.join(sorted(tables)[:3])}, …): give the log a database of its own"
        )
    version = connection.scalar(select(log_meta.c.version))
    if not isinstance(version, int) or (version <= SCHEMA_VERSION and missing):
        raise LogError(f"{place} is no event log of trainbus, or a damaged one")
    if version != SCHEMA_VERSION and version not in _STEPS:
        raise LogError(
            f"{place} is an event log of version {version}, this trainbus knows "
            f"{SCHEMA_VERSION}: install the version of trainbus that wrote it"
        )
    return version
