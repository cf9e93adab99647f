"""Groups and the state of sinks in SQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from bus.eventlog.append import insert_ignoring
from bus.eventlog.records import Group
from bus.eventlog.schema import sink_groups, sink_state

__all__ = [
    "clear_state",
    "find",
    "get_state",
    "move_start",
    "put_state",
    "register",
    "resize",
    "swap_state",
]


def register(connection: Connection, group: str, shards: int, now: float) -> Group:
    """Insert a group unless it is there, and return what is there."""
    values = {"sink_group": group, "shards": shards, "started_at": now}
    connection.execute(insert_ignoring(connection, sink_groups), values)
    query = select(sink_groups).where(sink_groups.c.sink_group == group)
    return _group(connection.execute(query).one())


def resize(connection: Connection, group: str, shards: int) -> Group | None:
    """Set another number of shards."""
    connection.execute(
        update(sink_groups).where(sink_groups.c.sink_group == group).values(shards=shards)
    )
    return _one(connection, group)


def move_start(connection: Connection, group: str, started_at: float) -> Group | None:
    """Set an earlier start."""
    connection.execute(
        update(sink_groups)
        .where(sink_groups.c.sink_group == group, sink_groups.c.started_at > started_at)
        .values(started_at=started_at)
    )
    return _one(connection, group)


def find(connection: Connection) -> list[Group]:
    """All groups, by name."""
    query = select(sink_groups).order_by(sink_groups.c.sink_group)
    return [_group(row) for row in connection.execute(query)]


def get_state(connection: Connection, group: str, project: str, run: str) -> bytes | None:
    """The value of one run, or None."""
    query = select(sink_state.c.value).where(
        sink_state.c.sink_group == group,
        sink_state.c.project == project,
        sink_state.c.run == run,
    )
    return connection.scalar(query)


def put_state(connection: Connection, group: str, project: str, run: str, value: bytes) -> None:
    """Insert or replace the value of one run."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    keys = [sink_state.c.sink_group, sink_state.c.project, sink_state.c.run]
    statement: Any = dialect.insert(sink_state).values(
        sink_group=group, project=project, run=run, value=value
    )
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_={"value": value}))


def swap_state(
    connection: Connection, group: str, project: str, run: str, before: bytes | None, value: bytes
) -> bool:
    """Replace the value of one run if it is still ``before``; whether it was."""
    names = {"sink_group": group, "project": project, "run": run}
    if before is None:
        done = connection.execute(
            insert_ignoring(connection, sink_state),
            {**names, "value": value},
            # Else SQLAlchemy keeps the number of rows of UPDATE and DELETE only.
            execution_options={"preserve_rowcount": True},
        )
    else:
        done = connection.execute(
            update(sink_state)
            .where(
                sink_state.c.sink_group == group,
                sink_state.c.project == project,
                sink_state.c.run == run,
                sink_state.c.value == before,
            )
            .values(value=value)
        )
    return done.rowcount == 1


def clear_state(connection: Connection, group: str, project: str) -> None:
    """Delete the values of all runs of a project."""
    connection.execute(
        delete(sink_state).where(sink_state.c.sink_group == group, sink_state.c.project == project)
    )


def _one(connection: Connection, group: str) -> Group | None:
    query = select(sink_groups).where(sink_groups.c.sink_group == group)
    row = connection.execute(query).one_or_none()
    return None if row is None else _group(row)


def _group(row: Row[Any]) -> Group:
    return Group(row.sink_group, row.shards, row.started_at)
