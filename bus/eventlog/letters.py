"""Dead letters in SQL.

A letter is *open* when it is given up. A person makes it *retried* or *discarded*; the group makes
it *resolved* when the event was delivered after all, or *open* again when it was not. The request
to retry is kept here, so that neither a broker that forgets nor a worker that dies can lose it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from sqlalchemy import Connection, func, select, true, update

from bus.eventlog.append import insert_ignoring
from bus.eventlog.records import DISCARDED, OPEN, RESOLVED, RETRIED, DeadLetter
from bus.eventlog.schema import dead_letters

__all__ = ["add", "count", "find", "identity_of", "move"]

_FROM = {
    RETRIED: (OPEN, RETRIED, DISCARDED),
    DISCARDED: (OPEN, RETRIED, DISCARDED),
}
"""From which states a person may bring a letter to these."""

_AT_ONCE = 500


def identity_of(letter: DeadLetter) -> bytes:
    """What two letters of the same event share: source and id, or the bytes of the message."""
    if letter.source:
        return hashlib.sha256(f"{letter.source}\n{letter.id}".encode()).digest()
    return hashlib.sha256(letter.raw).digest()


def add(connection: Connection, letter: DeadLetter) -> bool:
    """Insert a letter, or note what became of the one that is there; False if that is no news.

    A worker tells the log both itself and over the bus: the second time changes nothing.
    """
    if letter.state == RESOLVED:
        return _resolve(connection, letter)
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
    return bool(result.rowcount > 0) or _reopen(connection, letter)


def _reopen(connection: Connection, letter: DeadLetter) -> bool:
    """Given up once more: after a retry, or by a sink that has forgotten it."""
    result = connection.execute(
        update(dead_letters)
        .where(
            dead_letters.c.sink_group == letter.group,
            dead_letters.c.identity == identity_of(letter),
            dead_letters.c.state.in_((RETRIED, RESOLVED)),
            # The same word over the bus, late: it is of the time before.
            dead_letters.c.time < letter.time,
        )
        .values(
            state=OPEN,
            state_at=letter.time,
            time=letter.time,
            reason=letter.reason,
            error=letter.error,
            attempts=dead_letters.c.attempts + letter.attempts,
        )
    )
    return bool(result.rowcount > 0)


def _resolve(connection: Connection, letter: DeadLetter) -> bool:
    result = connection.execute(
        update(dead_letters)
        .where(
            dead_letters.c.sink_group == letter.group,
            dead_letters.c.identity == identity_of(letter),
            dead_letters.c.state != RESOLVED,
            dead_letters.c.time <= letter.time,
        )
        .values(
            state=RESOLVED,
            state_at=letter.time,
            attempts=dead_letters.c.attempts + letter.attempts,
        )
    )
    return bool(result.rowcount > 0)


def move(connection: Connection, keys: Sequence[int], state: str, now: float) -> int:
    """Bring letters to a state that a person may choose; gives how many could be."""
    moved = 0
    # What was never decoded is no event that could be sent again.
    is_fit = dead_letters.c.source != "" if state == RETRIED else true()
    for start in range(0, len(keys), _AT_ONCE):
        result = connection.execute(
            update(dead_letters)
            .where(
                dead_letters.c.letter_key.in_(keys[start : start + _AT_ONCE]),
                dead_letters.c.state.in_(_FROM[state]),
                is_fit,
            )
            .values(state=state, state_at=now)
        )
        moved += result.rowcount
    return moved


def find(
    connection: Connection,
    group: str | None,
    run: str | None,
    project: str | None,
    *,
    states: Collection[str] | None = None,
    keys: Collection[int] | None = None,
    has_raw: bool = True,
) -> list[DeadLetter]:
    """Letters that match, oldest first."""
    if keys is not None and len(keys) > _AT_ONCE:
        parts = sorted(keys)
        return [
            letter
            for start in range(0, len(parts), _AT_ONCE)
            for letter in find(
                *(connection, group, run, project),
                states=states,
                keys=parts[start : start + _AT_ONCE],
                has_raw=has_raw,
            )
        ]
    columns = [column for column in dead_letters.c if has_raw or column.name != "raw"]
    query = select(*columns).order_by(dead_letters.c.letter_key)
    wanted = ((dead_letters.c.sink_group, group), (dead_letters.c.run, run))
    for column, value in (*wanted, (dead_letters.c.project, project)):
        if value is not None:
            query = query.where(column == value)
    if states is not None:
        query = query.where(dead_letters.c.state.in_(states))
    if keys is not None:
        query = query.where(dead_letters.c.letter_key.in_(keys))
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
            raw=row.raw if has_raw else b"",
            state=row.state,
            state_at=row.state_at,
            key=row.letter_key,
        )
        for row in connection.execute(query)
    ]


def count(connection: Connection) -> dict[tuple[str, str], int]:
    """How many letters there are, by group and state."""
    query = select(dead_letters.c.sink_group, dead_letters.c.state, func.count()).group_by(
        dead_letters.c.sink_group, dead_letters.c.state
    )
    return {(group, state): number for group, state, number in connection.execute(query)}
