"""One run as ``trainbus log show`` prints it, as tables or as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import typer

from bus.cli.common import (
    format_bytes,
    format_count,
    format_ids,
    format_time,
    make_table,
    print_table,
)
from bus.eventlog import EventLog, LoggedEvent, RunSummary, SourceState
from bus.events import format_time as iso_time
from bus.idranges import IdRanges
from bus.source import Source

__all__ = [
    "RUNNING",
    "SourceView",
    "event_dict",
    "event_line",
    "print_run",
    "run_dict",
    "source_views",
]

RUNNING = "running"
"""Shown for a run that has not ended."""


@dataclass(frozen=True, slots=True)
class SourceView:
    """What there is to show of one source.

    Attributes:
        name: Its parts.
        held: Ids in the log.
        holes: Ids that are neither in the log nor lost, up to the last one known.
        kinds: How many events of each kind.
        is_finished: Its ``run_finished`` is in the log.
    """

    state: SourceState
    name: Source
    held: IdRanges
    holes: IdRanges
    kinds: dict[str, int]
    is_finished: bool

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; ids as ranges in text."""
        return {
            "source": self.state.source,
            "rank": self.name.rank,
            "attempt": self.name.attempt,
            "node": self.name.node,
            "events": len(self.held),
            "stored": str(self.held),
            "holes": str(self.holes),
            "lost": str(self.state.lost),
            "finished": self.is_finished,
            "kinds": self.kinds,
        }


def source_views(log: EventLog, run: str, project: str) -> list[SourceView]:
    """All sources of a run, by rank and attempt."""
    ids = log.ids_by_kind(run, project)
    ends = log.finished(run, project)
    views = []
    for state in log.sources(run, project):
        kinds = ids.get(state.source, {})
        end = ends.get(state.source)
        last = max(state.stored.top, end.id if end else 0)
        views.append(
            SourceView(
                state,
                Source.parse(state.source),
                state.stored.without(state.lost),
                IdRanges(state.stored.gaps(last)),
                {kind: len(kinds[kind]) for kind in sorted(kinds)},
                end is not None,
            )
        )
    return sorted(views, key=lambda view: (view.name.rank, view.name.attempt, view.state.source))


def run_dict(run: RunSummary) -> dict[str, Any]:
    """A run as JSON, times in RFC 3339."""
    return {
        **asdict(run),
        "status": run.status or RUNNING,
        "first_time": iso_time(run.first_time),
        "last_time": iso_time(run.last_time),
    }


def event_dict(event: LoggedEvent) -> dict[str, Any]:
    """What an event is, without its bytes."""
    return {
        "offset": event.offset,
        "source": event.source,
        "id": event.id,
        "kind": event.kind,
        "time": iso_time(event.time),
        "size": len(event.raw),
    }


def event_line(event: LoggedEvent) -> str:
    """The same in a line."""
    source = Source.parse(event.source)
    return (
        f"{format_time(event.time)}  rank {source.rank}.{source.attempt}  "
        f"{event.id:>8}  {event.kind:<12}  {format_bytes(len(event.raw)):>9}"
    )


def print_run(run: RunSummary, views: list[SourceView]) -> None:
    """Print the run, its sources, and its kinds."""
    typer.echo(f"{run.project} / {run.run_name}: run {run.run}, {run.status or RUNNING}")
    typer.echo(
        f"{format_count(run.events)} events, {format_bytes(run.bytes)}, "
        f"{format_time(run.first_time)} to {format_time(run.last_time)}"
    )
    numbers = ("rank", "attempt", "events")
    table = make_table(
        *("rank", "attempt", "node", "events", "ids stored", "holes", "lost", "end"),
        numbers=numbers,
    )
    for view in views:
        table.add_row(
            *(str(view.name.rank), str(view.name.attempt), view.name.node),
            format_count(len(view.held)),
            *(format_ids(list(ids)) for ids in (view.held, view.holes, view.state.lost)),
            "finished" if view.is_finished else RUNNING,
        )
    print_table(table)
    totals: Counter[str] = Counter()
    for view in views:
        totals.update(view.kinds)
    kinds = make_table("kind", "events", numbers=("events",))
    for kind in sorted(totals):
        kinds.add_row(kind, format_count(totals[kind]))
    print_table(kinds)
