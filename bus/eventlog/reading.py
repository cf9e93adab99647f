"""Queries over events: by source, by selection, and summed up by run.

Every query is short and holds at most one page of events in memory. No transaction stays open
between pages: it would keep SQLite from ending its WAL, and PostgreSQL from cleaning up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from bus.eventlog.records import LoggedEvent, RunCount, Selection
from bus.eventlog.schema import events, sources

__all__ = ["Connect", "count_runs", "read_page", "stream"]

Connect = Callable[[], AbstractContextManager[Connection]]

_LEAST_PAGE_BYTES = 256 * 1024


def read_page(
    connection: Connection,
    source: str,
    where: list[ColumnElement[bool]],
    limit_events: int,
    limit_bytes: int,
) -> list[LoggedEvent]:
    """The first events that match, by id, within both limits, but at least one."""
    sizes = select(events.c.log_offset, events.c.size).where(*where).order_by(events.c.id)
    offsets: list[int] = []
    total = 0
    for offset, size in connection.execute(sizes.limit(limit_events)):
        total += size
        if offsets and total > limit_bytes:
            break
        offsets.append(offset)
    if not offsets:
        return []
    query = select(events).where(events.c.log_offset.in_(offsets)).order_by(events.c.id)
    return [
        LoggedEvent(row.log_offset, source, row.id, row.kind, row.time, row.raw)
        for row in connection.execute(query)
    ]


def count_runs(connection: Connection, selection: Selection) -> list[RunCount]:
    """How much of each run a selection holds, by project and run."""
    query = (
        select(
            sources.c.project,
            sources.c.run,
            func.max(sources.c.run_name).label("run_name"),
            func.count().label("events"),
            func.sum(events.c.size).label("bytes"),
        )
        .join_from(sources, events, events.c.source_key == sources.c.source_key)
        .where(*_source_filter(selection), *_event_filter(selection))
        .group_by(sources.c.project, sources.c.run)
        .order_by(sources.c.project, sources.c.run)
    )
    return [
        RunCount(row.project, row.run, row.run_name, row.events, int(row.bytes))
        for row in connection.execute(query)
    ]


@dataclass(order=True, slots=True)
class _Cursor:
    """A place in one source; cursors compare by the time of their next event.

    Attributes:
        time: Highest time so far: an event that was overtaken does not go back in time.
        page: Events read ahead, the next one last; None before the first read.
    """

    time: float
    key: int
    source: str = field(compare=False)
    after_id: int = field(default=0, compare=False)
    page: list[LoggedEvent] | None = field(default=None, compare=False)


def stream(connect: Connect, selection: Selection, chunk_bytes: int) -> Iterator[LoggedEvent]:
    """Events by time over all sources, and in id order within each source.

    A source is opened when its first event is due, so that memory goes with the sources that
    were written at the same time and not with all that are selected.
    """
    query = select(sources.c.source_key, sources.c.source, sources.c.first_time)
    with connect() as connection:
        heap = [
            _Cursor(row.first_time or 0.0, row.source_key, row.source)
            for row in connection.execute(query.where(*_source_filter(selection)))
        ]
    heapq.heapify(heap)
    opened = 0
    while heap:
        cursor = heapq.heappop(heap)
        is_new = cursor.page is None
        if cursor.page:
            event = cursor.page.pop()
            cursor.after_id = event.id
            yield event
        if not cursor.page:
            opened += is_new
            limit_bytes = max(_LEAST_PAGE_BYTES, chunk_bytes // max(opened, 1))
            where = [
                events.c.source_key == cursor.key,
                events.c.id > cursor.after_id,
                *_event_filter(selection),
            ]
            with connect() as connection:
                page = read_page(connection, cursor.source, where, 500, limit_bytes)
            cursor.page = page[::-1]
        if cursor.page:
            cursor.time = max(cursor.time, cursor.page[-1].time)
            heapq.heappush(heap, cursor)
        else:
            opened -= 1


def _source_filter(selection: Selection) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if isinstance(selection.run, str):
        found.append(sources.c.run == selection.run)
    elif selection.run is not None:
        found.append(sources.c.run.in_(selection.run))
    if selection.project is not None:
        found.append(sources.c.project == selection.project)
    if selection.source is not None:
        found.append(sources.c.source == selection.source)
    if selection.since is not None:
        found.append(sources.c.last_time >= selection.since)
    if selection.until is not None:
        found.append(sources.c.first_time < selection.until)
    return found


def _event_filter(selection: Selection) -> list[Any]:
    found: list[Any] = []
    if selection.since is not None:
        found.append(events.c.time >= selection.since)
    if selection.until is not None:
        found.append(events.c.time < selection.until)
    if selection.kinds is not None:
        found.append(events.c.kind.in_(selection.kinds))
    if selection.after_offset:
        found.append(events.c.log_offset > selection.after_offset)
    return found
