"""What the log holds, summed up by run, from the sums that ``sources`` keeps."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, and_, func, select

from bus import events as wire
from bus.errors import EventError
from bus.eventlog.records import LoggedEvent, Loss, RunSummary
from bus.eventlog.schema import events, sources
from bus.eventlog.schema import losses as losses_table
from bus.eventlog.status import SourceEnd, run_status
from bus.idranges import IdRanges
from bus.kinds import RunFinished
from bus.source import Source

__all__ = ["find_runs", "finished", "kind_counts", "losses", "runs"]

_RUNS_AT_ONCE = 500


def runs(connection: Connection, project: str | None, limit: int | None) -> list[RunSummary]:
    """Runs with their sums, the latest event first."""
    last_time = func.max(sources.c.last_time).label("last_time")
    query = (
        select(
            sources.c.project,
            sources.c.run,
            func.max(sources.c.run_name).label("run_name"),
            func.sum(sources.c.event_count).label("events"),
            func.sum(sources.c.byte_count).label("bytes"),
            func.min(sources.c.first_time).label("first_time"),
            last_time,
            func.count().label("sources"),
        )
        .group_by(sources.c.project, sources.c.run)
        .order_by(last_time.desc(), sources.c.project, sources.c.run)
        .limit(limit)
    )
    if project is not None:
        query = query.where(sources.c.project == project)
    rows = connection.execute(query).all()
    details: dict[tuple[str, str], tuple[str | None, int]] = {}
    for start in range(0, len(rows), _RUNS_AT_ONCE):
        details |= _details(connection, [row.run for row in rows[start : start + _RUNS_AT_ONCE]])
    return [
        RunSummary(
            project=row.project,
            run=row.run,
            run_name=row.run_name,
            events=int(row.events),
            bytes=int(row.bytes),
            first_time=row.first_time,
            last_time=row.last_time,
            status=details[row.project, row.run][0],
            sources=row.sources,
            lost=details[row.project, row.run][1],
        )
        for row in rows
    ]


def find_runs(connection: Connection, run: str) -> list[tuple[str, str]]:
    """(project, run) by id or, failing that, by name."""
    query = select(sources.c.project, sources.c.run).distinct()
    query = query.order_by(sources.c.project, sources.c.run)
    for column in (sources.c.run, sources.c.run_name):
        rows = connection.execute(query.where(column == run)).all()
        if rows:
            return [(row.project, row.run) for row in rows]
    return []


def kind_counts(connection: Connection, run: str, project: str | None) -> dict[str, dict[str, int]]:
    """Events of each kind, per source."""
    query = (
        select(sources.c.source, events.c.kind, func.count().label("number"))
        .join_from(sources, events, events.c.source_key == sources.c.source_key)
        .where(*_of_run(run, project))
        .group_by(sources.c.source, events.c.kind)
        .order_by(sources.c.source, events.c.kind)
    )
    found: dict[str, dict[str, int]] = {}
    for row in connection.execute(query):
        found.setdefault(row.source, {})[row.kind] = row.number
    return found


def finished(connection: Connection, run: str, project: str | None) -> dict[str, LoggedEvent]:
    """The last ``run_finished`` of each source that has one."""
    query = _finished_query().where(*_of_run(run, project))
    return {
        row.source: LoggedEvent(row.log_offset, row.source, row.id, row.kind, row.time, row.raw)
        for row in connection.execute(query)
    }


def losses(connection: Connection, run: str, project: str | None) -> list[Loss]:
    """What was given up, in that order."""
    query = (
        select(sources.c.source, losses_table)
        .join_from(sources, losses_table, losses_table.c.source_key == sources.c.source_key)
        .where(*_of_run(run, project))
        .order_by(losses_table.c.loss_key)
    )
    return [
        Loss(row.source, row.first, row.last, row.reason, row.time)
        for row in connection.execute(query)
    ]


def _details(
    connection: Connection, names: list[str]
) -> dict[tuple[str, str], tuple[str | None, int]]:
    """Status and number of lost events, by (project, run)."""
    ends: dict[tuple[str, str], list[SourceEnd]] = defaultdict(list)
    lost: dict[tuple[str, str], int] = defaultdict(int)
    query = select(sources.c.project, sources.c.run, sources.c.source, sources.c.lost)
    for row in connection.execute(query.where(sources.c.run.in_(names))):
        source = Source.parse(row.source)
        ends[row.project, row.run].append(SourceEnd(source.rank, source.attempt, None))
        lost[row.project, row.run] += len(IdRanges.parse(row.lost))
    for row in connection.execute(_finished_query().where(sources.c.run.in_(names))):
        end = _end_of(row.raw)
        if end is not None:
            ends[row.project, row.run].append(end)
    return {key: (run_status(group), lost[key]) for key, group in ends.items()}


def _end_of(raw: bytes) -> SourceEnd | None:
    """What a ``run_finished`` says; None if this version cannot read it."""
    try:
        data = wire.decode(raw).data
    except EventError:
        return None
    if not isinstance(data, RunFinished):
        return None
    return SourceEnd(data.rank, data.attempt, data.status)


def _finished_query() -> Any:
    return select(sources.c.project, sources.c.run, sources.c.source, events).join_from(
        sources,
        events,
        and_(
            events.c.source_key == sources.c.source_key,
            events.c.id == sources.c.finished_id,
        ),
    )


def _of_run(run: str, project: str | None) -> list[Any]:
    wanted = [sources.c.run == run]
    if project is not None:
        wanted.append(sources.c.project == project)
    return wanted
