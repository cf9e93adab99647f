"""Storing events: what to insert is decided here without a database, then done in SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from bus.eventlog.records import AppendResult, LogRecord, SourceState
from bus.eventlog.schema import events, losses, sources
from bus.idranges import IdRanges

__all__ = ["Plan", "append", "insert_ignoring", "make_plan", "record_lost", "state_of"]

_FINISHED = "run_finished"
_COMPARE_AT_ONCE = 64
"""Duplicates whose bytes are read back together: at the largest event, 16 MiB."""

_EVENT_INSERT = insert(events)
_SOURCE_UPDATE = (
    update(sources)
    .where(sources.c.source_key == bindparam("key"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "stored",
                "lost",
                "changed_at",
                "event_count",
                "byte_count",
                "first_time",
                "last_time",
                "finished_id",
            )
        }
    )
)


@dataclass(slots=True)
class Plan:
    """What to do with the records of one source.

    Attributes:
        fresh: Records to insert.
        known: Records whose id the log holds, bytes still to be compared.
        repeated: How many came twice in this call.
        conflicts: Ids that came twice in this call with different bytes.
    """

    fresh: list[LogRecord] = field(default_factory=list)
    known: list[LogRecord] = field(default_factory=list)
    repeated: int = 0
    conflicts: list[int] = field(default_factory=list)


def make_plan(records: Iterable[LogRecord], stored: IdRanges, lost: IdRanges) -> Plan:
    """Sort the records of one source into new ones and duplicates.

    An id that was given up as lost and turns up after all is new.
    """
    plan = Plan()
    seen: dict[int, bytes] = {}
    for record in records:
        if record.id in seen:
            plan.repeated += 1
            if seen[record.id] != record.raw:
                plan.conflicts.append(record.id)
            continue
        seen[record.id] = record.raw
        is_known = record.id in stored and record.id not in lost
        (plan.known if is_known else plan.fresh).append(record)
    return plan


def state_of(row: Row[Any]) -> SourceState:
    """A row of ``sources`` as the rest of the program sees it."""
    return SourceState(
        source=row.source,
        run=row.run,
        project=row.project,
        run_name=row.run_name,
        stored=IdRanges.parse(row.stored),
        lost=IdRanges.parse(row.lost),
        changed_at=row.changed_at,
    )


def insert_ignoring(connection: Connection, table: Any) -> Any:
    """An INSERT that leaves out rows that are there already."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


def append(connection: Connection, records: Sequence[LogRecord], now: float) -> AppendResult:
    """Insert what is new and bring the stored ranges along, in the caller's transaction."""
    by_source: dict[str, list[LogRecord]] = {}
    for record in records:
        by_source.setdefault(record.source, []).append(record)
    rows = _lock_sources(connection, by_source, now)
    result = AppendResult(states={})
    inserts: list[dict[str, Any]] = []
    updates: list[dict[str, Any]] = []
    duplicates = 0
    for source, group in by_source.items():
        row, state = rows[source], state_of(rows[source])
        plan = make_plan(group, state.stored, state.lost)
        duplicates += plan.repeated + len(plan.known)
        conflicts = plan.conflicts + _conflicts(connection, row.source_key, plan.known)
        result.conflicts.extend((source, number) for number in dict.fromkeys(conflicts))
        if plan.fresh:
            inserts.extend(_event_values(row.source_key, record) for record in plan.fresh)
            state = _with_ids(state, plan.fresh, now)
            updates.append(_source_values(row, state, plan.fresh))
        result.states[source] = state
    if inserts:
        connection.execute(_EVENT_INSERT, inserts)
        connection.execute(_SOURCE_UPDATE, updates)
    return AppendResult(result.states, duplicates, result.conflicts)


def record_lost(
    connection: Connection, source: str, first: int, last: int, reason: str, now: float
) -> SourceState | None:
    """Give up the ids from ``first`` to ``last`` that the log does not hold."""
    rows = _select_locked(connection, [source])
    if source not in rows:
        return None
    row, state = rows[source], state_of(rows[source])
    missing = state.stored.gaps(last, first)
    if not missing:
        return state
    state.stored.update(missing)
    state.lost.update(missing)
    state = _touched(state, state.stored, state.lost, now)
    connection.execute(_SOURCE_UPDATE, [_source_values(row, state, [])])
    values = {"source_key": row.source_key, "reason": reason, "time": now}
    connection.execute(insert(losses), [{**values, "first": a, "last": b} for a, b in missing])
    return state


def _lock_sources(
    connection: Connection, by_source: dict[str, list[LogRecord]], now: float
) -> dict[str, Row[Any]]:
    """The rows of all sources, made where missing, and locked against other writers.

    No two writers can wait for each other: all insert in one order before they lock, and all lock
    in one order, and a row that is still uncommitted is waited for only while inserting.
    """
    names = sorted(by_source)
    query = select(sources.c.source).where(sources.c.source.in_(names))
    known = set(connection.scalars(query))
    fresh = [name for name in names if name not in known]
    if fresh:
        values = []
        for name in fresh:
            record = by_source[name][0]
            values.append(
                {
                    "source": name,
                    "run": record.run,
                    "project": record.project,
                    "run_name": record.run_name,
                    "changed_at": now,
                }
            )
        connection.execute(insert_ignoring(connection, sources), values)
    return _select_locked(connection, names)


def _select_locked(connection: Connection, names: list[str]) -> dict[str, Row[Any]]:
    # SQLite has no FOR UPDATE: there BEGIN IMMEDIATE holds off every other writer.
    query = (
        select(sources)
        .where(sources.c.source.in_(names))
        .order_by(sources.c.source_key)
        .with_for_update()
    )
    return {row.source: row for row in connection.execute(query)}


def _conflicts(connection: Connection, key: int, known: list[LogRecord]) -> list[int]:
    """The ids whose bytes in the log are others than those that came now."""
    found: list[int] = []
    for start in range(0, len(known), _COMPARE_AT_ONCE):
        part = {record.id: record.raw for record in known[start : start + _COMPARE_AT_ONCE]}
        query = select(events.c.id, events.c.raw).where(
            events.c.source_key == key, events.c.id.in_(list(part))
        )
        found.extend(row.id for row in connection.execute(query) if row.raw != part[row.id])
    return found


def _touched(state: SourceState, stored: IdRanges, lost: IdRanges, now: float) -> SourceState:
    # Never backwards, whatever the clocks of several writers say.
    changed_at = max(now, state.changed_at)
    return SourceState(
        state.source, state.run, state.project, state.run_name, stored, lost, changed_at
    )


def _with_ids(state: SourceState, fresh: list[LogRecord], now: float) -> SourceState:
    ids = IdRanges()
    for record in fresh:
        ids.add(record.id)
    state.stored.update(ids)
    return _touched(state, state.stored, state.lost.without(ids), now)


def _event_values(key: int, record: LogRecord) -> dict[str, Any]:
    return {
        "source_key": key,
        "id": record.id,
        "kind": record.kind,
        "time": record.time,
        "size": len(record.raw),
        "raw": record.raw,
    }


def _source_values(row: Row[Any], state: SourceState, fresh: list[LogRecord]) -> dict[str, Any]:
    times = [record.time for record in fresh]
    known = [time for time in (row.first_time, row.last_time) if time is not None]
    finished = [record.id for record in fresh if record.kind == _FINISHED]
    if row.finished_id is not None:
        finished.append(row.finished_id)
    return {
        "key": row.source_key,
        "new_stored": str(state.stored),
        "new_lost": str(state.lost),
        "new_changed_at": state.changed_at,
        "new_event_count": row.event_count + len(fresh),
        "new_byte_count": row.byte_count + sum(len(record.raw) for record in fresh),
        "new_first_time": min(times + known, default=None),
        "new_last_time": max(times + known, default=None),
        "new_finished_id": max(finished, default=None),
    }
