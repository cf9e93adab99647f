"""Asking the event log and the sinks for what :mod:`bus.receipt` needs.

Points are counted by each sink's own rule (:class:`bus.sinks.PointCounter`): the distinct ones
over all events that are not dead letters. Only their hashes are kept, about 100 bytes a point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from bus.config import Settings
from bus.errors import EventError, SinkError, TrainbusError
from bus.eventlog.records import LoggedEvent, Selection
from bus.events import Event, decode, metric_points
from bus.kinds import Metrics, Model, RunFinished, RunStarted, Summary, System
from bus.receipt import Receipt, SinkFacts, SourceFacts, make_receipt
from bus.sinks import Marks, PointCounter, RunRef, Sink, load_sink

if TYPE_CHECKING:
    from bus.eventlog import EventLog

__all__ = ["POINT_KINDS", "count_points", "verify_run"]

POINT_KINDS = frozenset({"metrics", "model", "summary", "system"})
"""The kinds that hold metric points."""

T = TypeVar("T")

Load = Callable[[str, Settings, Mapping[str, str]], Sink]


@dataclass(slots=True)
class _Tally:
    """The points one sink should hold."""

    counter: PointCounter
    kinds: frozenset[str]
    dead: Marks
    hashes: set[int] = field(default_factory=set)

    def add(self, event: Event) -> None:
        """Count the points of an event."""
        dead = self.dead.dead.get(event.source)
        if event.kind not in self.kinds or (dead is not None and event.id in dead):
            return
        try:
            self.hashes.update(map(hash, self.counter.expected_points(event)))
        except SinkError:
            return  # it can never be written: it is, or becomes, a dead letter


def verify_run(
    log: EventLog,
    run: RunRef,
    sink_names: Sequence[str],
    settings: Settings,
    environ: Mapping[str, str],
    *,
    on_events: Callable[[int], None] = lambda number: None,
    load: Load = load_sink,
) -> Receipt:
    """Make the receipt of a run. Blocks, and runs an event loop of its own for the sinks.

    Args:
        log: The event log; it must know the run.
        run: Which run.
        sink_names: The sinks to ask. One that cannot be asked is named in the receipt.
        settings: For the sinks.
        environ: For the sinks.
        on_events: Called with the number of events read since the last call.
        load: Makes a sink by its name.

    Raises:
        LogError: The log cannot be read.
    """
    wanted = _wanted_sinks(log, run)
    sinks, tallies = asyncio.run(_ask(run, sink_names, settings, environ, load))
    selection = Selection(run=run.run, project=run.project, kinds=POINT_KINDS)
    points = count_points(log.select(selection), tallies.values(), on_events)
    for facts in sinks:
        if facts.name in tallies:
            facts.points_expected = len(tallies[facts.name].hashes)
        if facts.contents is None and wanted is not None:
            facts.is_wanted = facts.name in wanted
    summary = log.runs(run.project, None, run.run)
    receipt = Receipt(run.run, run.project, run.run_name, points=points)
    receipt.status = summary[0].status if summary else None
    return make_receipt(receipt, _source_facts(log, run), sinks)


def count_points(
    events: Iterable[LoggedEvent], tallies: Iterable[_Tally], on_events: Callable[[int], None]
) -> int:
    """Give every event to every tally, and count all points, repeated ones too."""
    total = 0
    tallies = list(tallies)
    for logged in events:
        on_events(1)
        try:
            event = decode(logged.raw)
        except EventError:
            continue  # a dead letter in every sink
        data = event.data
        if isinstance(data, Metrics):
            total += metric_points(data)
        elif isinstance(data, Summary | System):
            total += len(data.values)
        elif isinstance(data, Model):
            total += len(data.metrics)
        for tally in tallies:
            tally.add(event)
    return total


async def _ask(
    run: RunRef,
    names: Sequence[str],
    settings: Settings,
    environ: Mapping[str, str],
    load: Load,
) -> tuple[list[SinkFacts], dict[str, _Tally]]:
    """Ask all sinks at once."""
    tallies: dict[str, _Tally] = {}

    async def ask(name: str) -> SinkFacts:
        try:
            sink = load(name, settings, environ)
        except TrainbusError as error:
            return SinkFacts(name, error=str(error))
        try:
            contents = await sink.contents(run)
        except SinkError as error:
            return SinkFacts(name, error=str(error))
        finally:
            await sink.close()
        if contents is not None and contents.points is not None and isinstance(sink, PointCounter):
            tallies[name] = _Tally(sink, sink.kinds, contents.marks)
        return SinkFacts(name, sink.kinds, contents)

    return list(await asyncio.gather(*(ask(name) for name in names))), tallies


def _wanted_sinks(log: EventLog, run: RunRef) -> set[str] | None:
    """The sinks that the run says it goes to; None for all."""
    selection = Selection(run=run.run, project=run.project, kinds=frozenset({"run_started"}))
    wanted: set[str] = set()
    for logged in log.select(selection):
        data = _data(logged, RunStarted)
        if data is None or data.sinks is None:
            return None
        wanted.update(data.sinks)
    return wanted or None


def _source_facts(log: EventLog, run: RunRef) -> list[SourceFacts]:
    kinds = log.ids_by_kind(run.run, run.project)
    last_ids = {}
    for source, logged in log.finished(run.run, run.project).items():
        data = _data(logged, RunFinished)
        last_ids[source] = data.last_id if data is not None else logged.id
    return [
        SourceFacts(
            state.source,
            state.stored,
            state.lost,
            kinds.get(state.source, {}),
            last_ids.get(state.source),
        )
        for state in log.sources(run.run, run.project)
    ]


def _data(logged: LoggedEvent, kind: type[T]) -> T | None:
    try:
        data = decode(logged.raw).data
    except EventError:
        return None
    return data if isinstance(data, kind) else None
