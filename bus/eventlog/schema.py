"""The tables of the event log."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

__all__ = [
    "SCHEMA_VERSION",
    "Name",
    "dead_letters",
    "events",
    "log_meta",
    "losses",
    "metadata",
    "sink_groups",
    "sink_state",
    "sources",
]

SCHEMA_VERSION = 2
"""Written to ``log_meta`` when the tables are made; a newer one is refused, an older one brought
along (:mod:`bus.eventlog.setup`)."""

_ESCAPES = {"\x01": "\x01\x02", "\x00": "\x01\x03"}


class Name(TypeDecorator[str]):
    """Text that may hold NUL, which PostgreSQL's text cannot.

    One odd name must not make its event impossible to store. NUL and the escape itself are
    written as two characters each; every other text is stored as it is.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Escape on the way in."""
        if value is None or value.isprintable():
            return value
        return value.replace("\x01", _ESCAPES["\x01"]).replace("\x00", _ESCAPES["\x00"])

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Undo the escape on the way out."""
        if value is None or "\x01" not in value:
            return value
        return value.replace(_ESCAPES["\x00"], "\x00").replace(_ESCAPES["\x01"], "\x01")


# SQLite gives out row numbers only for INTEGER, which has 64 bits there.
_Serial = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()

log_meta = Table("log_meta", metadata, Column("version", Integer, nullable=False))

sources = Table(
    "sources",
    metadata,
    Column("source_key", _Serial, primary_key=True, autoincrement=True),
    Column("source", Name, nullable=False, unique=True),
    Column("run", Name, nullable=False),
    Column("project", Name, nullable=False),
    Column("run_name", Name, nullable=False),
    Column("stored", Text, nullable=False, default=""),
    Column("lost", Text, nullable=False, default=""),
    Column("changed_at", Double, nullable=False),
    # Sums over the events of the source, so that listing runs reads no events.
    Column("event_count", BigInteger, nullable=False, default=0),
    Column("byte_count", BigInteger, nullable=False, default=0),
    Column("first_time", Double),
    Column("last_time", Double),
    Column("finished_id", BigInteger),
    Index("sources_by_run", "run"),
    Index("sources_by_change", "changed_at"),
    Index("sources_by_time", "last_time"),
)

# ``raw`` is last: SQLite then finds the other columns without reading its overflow pages.
events = Table(
    "events",
    metadata,
    Column("log_offset", _Serial, primary_key=True, autoincrement=True),
    Column("source_key", BigInteger, nullable=False),
    Column("id", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("time", Double, nullable=False),
    Column("size", Integer, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    UniqueConstraint("source_key", "id", name="events_by_id"),
    # Covers what selecting and counting ask for, so that they read no event bytes.
    Index("events_by_time", "source_key", "time", "id", "kind", "size"),
    sqlite_autoincrement=True,
)

losses = Table(
    "losses",
    metadata,
    Column("loss_key", _Serial, primary_key=True, autoincrement=True),
    Column("source_key", BigInteger, nullable=False, index=True),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("reason", Name, nullable=False),
    Column("time", Double, nullable=False),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("letter_key", _Serial, primary_key=True, autoincrement=True),
    Column("sink_group", Name, nullable=False),
    # sha256 of what names the letter: fixed length, and there also when nothing was decoded.
    Column("identity", LargeBinary, nullable=False),
    Column("source", Name, nullable=False),
    Column("id", BigInteger, nullable=False),
    Column("run", Name, nullable=False),
    Column("project", Name, nullable=False),
    Column("reason", Name, nullable=False),
    Column("error", Name, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("time", Double, nullable=False),
    # Since version 2.
    Column("state", Text, nullable=False, server_default="open"),
    Column("state_at", Double),
    Column("raw", LargeBinary, nullable=False),
    UniqueConstraint("sink_group", "identity", name="dead_letters_by_identity"),
    Index("dead_letters_by_state", "sink_group", "state"),
)

sink_groups = Table(
    "sink_groups",
    metadata,
    Column("sink_group", Name, primary_key=True),
    Column("shards", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
)

sink_state = Table(
    "sink_state",
    metadata,
    Column("sink_group", Name, primary_key=True),
    Column("project", Name, primary_key=True),
    Column("run", Name, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
