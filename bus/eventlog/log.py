"""The event log: every event, once, with its exact bytes.

**Layout** (:mod:`bus.eventlog.schema`)

- ``sources``: a row per source, with the ranges of ids that are stored and lost, sums over its
  events, and when it last changed.
- ``events``: a row per event; unique by source and id; ``log_offset`` counts insertions.
- ``losses``: which ids were given up as lost, when and why.
- ``dead_letters``, ``sink_groups``, ``sink_state``: what groups leave here.
- ``log_meta``: the version of these tables.

**Invariants**

1. An append is one transaction, and is synced to disk when the call returns.
2. The ranges of a source change in the transaction that inserts its events, under a lock on its
   row. So ``stored`` without ``lost`` is exactly the ids that have a row, whoever writes.
3. The first bytes stored under (source, id) stay. Others are reported as a conflict.
4. ``stored`` contains ``lost``: an id that is lost blocks nobody. One that turns up after all is
   stored and is no longer lost.
5. ``changed_at`` of a source never goes back. It is taken before the commit, by the writer's
   clock, so that a change may become visible with a time that is already past: a reader asks
   again from the highest ``changed_at`` it has seen minus ``CHANGED_MARGIN_SECONDS``, and
   ignores what it knows.
6. Nothing about a source is kept in memory between calls.

All methods are synchronous and may be called from several threads at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Self

from sqlalchemy import Engine, Select, select

from bus.errors import ConfigError, LogError
from bus.eventlog import append, groups, letters, reading, summaries
from bus.eventlog.engine import WRITE_OPTION, engine_for, file_of, parse_url
from bus.eventlog.failures import translated
from bus.eventlog.records import (
    DISCARDED,
    RETRIED,
    AppendResult,
    DeadLetter,
    Group,
    LoggedEvent,
    LogRecord,
    Loss,
    RunCount,
    RunSummary,
    RunUnderWay,
    Selection,
    SourceState,
)
from bus.eventlog.schema import events, sources
from bus.eventlog.setup import prepare
from bus.idranges import IdRanges

__all__ = ["CHANGED_MARGIN_SECONDS", "EventLog"]

CHANGED_MARGIN_SECONDS = 60.0
"""How far back a reader of ``changed_since`` looks: longest append plus clock difference."""

_NAMES_AT_ONCE = 500
"""Bound values of one query: SQLite allows 32,766, and 999 in old builds."""

DEFAULT_LIMIT_BYTES = 4 * 1024 * 1024
DEFAULT_CHUNK_BYTES = 16 * 1024 * 1024


class EventLog:
    """An open event log. Make one with :meth:`open`.

    Every method raises :class:`bus.errors.LogError` when the database fails; its
    ``is_retryable`` says whether the same call may succeed later.
    """

    def __init__(self, engine: Engine, place: str) -> None:
        self._engine = engine
        self._writer = engine.execution_options(**{WRITE_OPTION: True})
        self._place = place

    @classmethod
    def open(cls, url: str, create: bool = True) -> EventLog:
        """Connect to the log, and make its tables if the database is empty.

        Args:
            url: ``sqlite:///path`` or ``postgresql://…``.
            create: False to be refused where there is no log yet.

        Raises:
            ConfigError: The URL is of no supported form, or the driver is not installed.
            LogError: The database cannot be reached, is not ours, or is of a newer trainbus.
        """
        address = parse_url(url)
        place = address.render_as_string(hide_password=True)
        path = file_of(address)
        if path is not None:
            if not create and not path.exists():
                raise LogError(f"there is no event log at {place}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"event log {place}: {error}") from error
        engine = engine_for(address)
        log = cls(engine, place)
        try:
            with translated(place):
                prepare(engine, log._writer, place, create)
        except BaseException:
            log.close()
            raise
        return log

    @property
    def place(self) -> str:
        """The URL without its password, for messages."""
        return self._place

    def append(self, records: Sequence[LogRecord], now: float) -> AppendResult:
        """Store events in one transaction, synced to disk when this returns.

        Args:
            records: Of any sources, in any order; what the log holds already is counted only.
            now: Unix seconds, for ``changed_at``.
        """
        if not records:
            return AppendResult({})
        with translated(self._place), self._writer.begin() as connection:
            return append.append(connection, records, now)

    def record_lost(
        self, source: str, first: int, last: int, reason: str, now: float
    ) -> SourceState | None:
        """Give up the ids from ``first`` to ``last`` that are not in the log.

        Returns:
            The state after it; None when the log does not know the source.
        """
        with translated(self._place), self._writer.begin() as connection:
            return append.record_lost(connection, source, first, last, reason, now)

    def sources(self, run: str, project: str | None = None) -> list[SourceState]:
        """The sources of a run, by name; none when the log does not know the run."""
        query = select(sources).where(sources.c.run == run).order_by(sources.c.source)
        if project is not None:
            query = query.where(sources.c.project == project)
        return self._states(query)

    def changed_since(self, since: float) -> list[SourceState]:
        """Sources with ``changed_at`` at or after ``since`` (Unix seconds), oldest change first.

        See invariant 5 for how to ask again.
        """
        query = select(sources).where(sources.c.changed_at >= since)
        return self._states(query.order_by(sources.c.changed_at, sources.c.source_key))

    def unfinished_sources(self, since: float) -> list[SourceState]:
        """Sources without an end of their own, changed at ``since`` (Unix seconds) or later."""
        query = select(sources).where(
            sources.c.finished_id.is_(None), sources.c.changed_at >= since
        )
        return self._states(query)

    def runs_under_way(self, since: float, run: tuple[str, str] | None = None) -> list[RunUnderWay]:
        """Runs that have started and not ended, by project and run.

        Args:
            since: Only sources that changed then or later (Unix seconds).
            run: Only this one (project, run).
        """
        with translated(self._place), self._engine.begin() as connection:
            return summaries.under_way(connection, since, run)

    def states(self, names: Sequence[str]) -> dict[str, SourceState]:
        """The sources of these names that the log knows."""
        found: dict[str, SourceState] = {}
        for start in range(0, len(names), _NAMES_AT_ONCE):
            part = names[start : start + _NAMES_AT_ONCE]
            states = self._states(select(sources).where(sources.c.source.in_(part)))
            found |= {state.source: state for state in states}
        return found

    def first_events(self, names: Sequence[str], kind: str) -> dict[str, bytes]:
        """The bytes of the events with id 1 and of a kind, by source; those of these names."""
        with translated(self._place), self._engine.begin() as connection:
            return summaries.first_events(connection, names, kind)

    def read(
        self,
        source: str,
        first: int,
        last: int,
        limit_events: int = 500,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        kind: str | None = None,
    ) -> list[LoggedEvent]:
        """Events of one source with ids from ``first`` to ``last``, by id; of one kind, or all.

        Stops at either limit, but returns at least one event if there is one.
        """
        key = select(sources.c.source_key).where(sources.c.source == source).scalar_subquery()
        where = [events.c.source_key == key, events.c.id.between(first, last)]
        if kind is not None:
            where.append(events.c.kind == kind)
        with translated(self._place), self._engine.begin() as connection:
            return reading.read_page(connection, source, where, limit_events, limit_bytes)

    def select(
        self, selection: Selection, chunk: int = DEFAULT_CHUNK_BYTES
    ) -> Iterator[LoggedEvent]:
        """Stream events by time, and in id order within each source.

        Args:
            selection: Which events.
            chunk: Bytes to hold in memory, about.
        """
        with translated(self._place):
            yield from reading.stream(self._engine.begin, selection, chunk)

    def count(self, selection: Selection) -> tuple[int, int]:
        """How many events a selection holds, and their bytes."""
        runs = self.count_runs(selection)
        return sum(run.events for run in runs), sum(run.bytes for run in runs)

    def count_runs(self, selection: Selection) -> list[RunCount]:
        """The same for each run that the selection touches."""
        with translated(self._place), self._engine.begin() as connection:
            return reading.count_runs(connection, selection)

    def runs(
        self, project: str | None = None, limit: int | None = 100, run: str | None = None
    ) -> list[RunSummary]:
        """Runs with what the log holds of them, the latest event first."""
        with translated(self._place), self._engine.begin() as connection:
            return summaries.runs(connection, project, limit, run)

    def open_runs(self, since: float, limit: int = 100) -> list[RunSummary]:
        """Runs that have not ended, the latest event first.

        Args:
            since: Runs whose sources have all ended, and that still wait for other ranks, are only
                looked for among those changed since then (Unix seconds).
            limit: Look at so many runs at the most.
        """
        with translated(self._place), self._engine.begin() as connection:
            return summaries.open_runs(connection, since, limit)

    def find_runs(self, run: str) -> list[tuple[str, str]]:
        """(project, run) of every run with this id or, if there is none, with this name."""
        with translated(self._place), self._engine.begin() as connection:
            return summaries.find_runs(connection, run)

    def ids_by_kind(self, run: str, project: str | None = None) -> dict[str, dict[str, IdRanges]]:
        """Per source of a run and per kind, the ids that the log holds."""
        with translated(self._place), self._engine.begin() as connection:
            return summaries.ids_by_kind(connection, run, project)

    def finished(self, run: str, project: str | None = None) -> dict[str, LoggedEvent]:
        """Per source of a run, its last ``run_finished`` event, where there is one."""
        with translated(self._place), self._engine.begin() as connection:
            return summaries.finished(connection, run, project)

    def losses(self, run: str, project: str | None = None) -> list[Loss]:
        """What was given up as lost of a run, in that order. Some may have turned up since."""
        with translated(self._place), self._engine.begin() as connection:
            return summaries.losses(connection, run, project)

    def add_dead_letter(self, letter: DeadLetter) -> bool:
        """Keep a dead letter, or what became of it: resolved, or given up once more after a retry.

        Returns:
            False when that is no news: the first letter of an event stays.
        """
        with translated(self._place), self._writer.begin() as connection:
            return letters.add(connection, letter)

    def dead_letters(
        self,
        group: str | None = None,
        run: str | None = None,
        project: str | None = None,
        *,
        states: Collection[str] | None = None,
        keys: Collection[int] | None = None,
        has_raw: bool = True,
    ) -> list[DeadLetter]:
        """Dead letters in the order they were first given up; without ``has_raw`` no bytes."""
        with translated(self._place), self._engine.begin() as connection:
            return letters.find(
                connection, group, run, project, states=states, keys=keys, has_raw=has_raw
            )

    def count_dead_letters(self) -> dict[tuple[str, str], int]:
        """How many dead letters there are, by group and state."""
        with translated(self._place), self._engine.begin() as connection:
            return letters.count(connection)

    def retry_dead_letters(self, keys: Sequence[int], now: float) -> int:
        """Ask for letters to be tried again; gives how many can be."""
        with translated(self._place), self._writer.begin() as connection:
            return letters.move(connection, keys, RETRIED, now)

    def discard_dead_letters(self, keys: Sequence[int], now: float) -> int:
        """Close letters for good; gives how many were not delivered yet."""
        with translated(self._place), self._writer.begin() as connection:
            return letters.move(connection, keys, DISCARDED, now)

    def register_group(self, group: str, shards: int, now: float) -> Group:
        """Note a group at its first start; later calls change nothing.

        Returns:
            The group as it was first registered.
        """
        with translated(self._place), self._writer.begin() as connection:
            return groups.register(connection, group, shards, now)

    def move_group_start(self, group: str, started_at: float) -> Group | None:
        """Let a group start earlier, so that it catches up on what was before.

        Returns:
            The group as it is now, never later than it was; None when it is not registered.
        """
        with translated(self._place), self._writer.begin() as connection:
            return groups.move_start(connection, group, started_at)

    def resize_group(self, group: str, shards: int) -> Group | None:
        """Note another number of shards; None when the group is not registered."""
        with translated(self._place), self._writer.begin() as connection:
            return groups.resize(connection, group, shards)

    def groups(self) -> list[Group]:
        """All groups that ever worked with this log, by name."""
        with translated(self._place), self._engine.begin() as connection:
            return groups.find(connection)

    def get_sink_state(self, group: str, project: str, run: str) -> bytes | None:
        """What a sink put here for a run; None when it put nothing."""
        with translated(self._place), self._engine.begin() as connection:
            return groups.get_state(connection, group, project, run)

    def put_sink_state(self, group: str, project: str, run: str, value: bytes) -> None:
        """Keep a value for a sink, in place of the one before."""
        with translated(self._place), self._writer.begin() as connection:
            groups.put_state(connection, group, project, run, value)

    def swap_sink_state(
        self, group: str, project: str, run: str, before: bytes | None, value: bytes
    ) -> bool:
        """Keep a value for a sink if the one there is still ``before`` (None: there is none).

        Returns:
            False when somebody else has put another value; nothing is changed then.
        """
        with translated(self._place), self._writer.begin() as connection:
            return groups.swap_state(connection, group, project, run, before, value)

    def clear_sink_state(self, group: str, project: str) -> None:
        """Forget what a group keeps here for a project."""
        with translated(self._place), self._writer.begin() as connection:
            groups.clear_state(connection, group, project)

    def _states(self, query: Select[Any]) -> list[SourceState]:
        with translated(self._place), self._engine.begin() as connection:
            return [append.state_of(row) for row in connection.execute(query)]

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
