"""Dead letters in SQL."""

from __future__ import annotations

import hashlib

from sqlalchemy import Connection, select

from bus.eventlog.append import insert_ignoring
from bus.eventlog.records import DeadLetter
from bus.eventlog.schema import dead_letters

__all__ = ["add", "find", "identity_of"]


def identity_of(letter: DeadLetter) -> bytes:
    """What two letters of the same event share: source and id, or the bytes of the message."""
    if letter.source:
        return hashlib.sha256(f"{letter.source}\n{letter.id}".encode()).digest()
    return hashlib.sha256(letter.raw).digest()


def add(connection: Connection, letter: DeadLetter) -> bool:
    """Insert a letter unless it is there."""
    result = connection.execute(
        insert_ignoring(connection, dead_letters),
        {
            "sink_group": letter.group,
            "identity": identity_of(letter),
            "source": letter.source,
            "id": letter.id,
            "run": letter.run,
            "project": letter.project,
            "reason": letter.reason,
            "error": letter.error,
            "attempts": letter.attempts,
            "time": letter.time,
            "raw": letter.raw,
        },
        # Else SQLAlchemy keeps the number of rows of UPDATE and DELETE only.
        execution_options={"preserve_rowcount": True},
    )
    return bool(result.rowcount > 0)


def find(
    connection: Connection, group: str | None, run: str | None, project: str | None
) -> list[DeadLetter]:
    """Letters that match, oldest first."""
    query = select(dead_letters).order_by(dead_letters.c.letter_key)
    wanted = ((dead_letters.c.sink_group, group), (dead_letters.c.run, run))
    for column, value in (*wanted, (dead_letters.c.project, project)):
        if value is not None:
            query = query.where(column == value)
    return [
        DeadLetter(
            group=row.sink_group,
            source=row.source,
            id=row.id,
            run=row.run,
            project=row.project,
            reason=row.reason,
            error=row.error,
            attempts=row.attempts,
            time=row.time,
            raw=row.raw,
        )
        for row in connection.execute(query)
    ]
