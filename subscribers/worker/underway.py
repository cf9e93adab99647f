"""Which runs of a worker's shards have started and not ended, and are for its sink."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from bus.errors import EventError
from bus.eventlog.aio import AsyncEventLog
from bus.eventlog.records import RunUnderWay
from bus.events import Envelope, decode
from bus.kinds import RunStarted
from bus.ratelimit import RunKey
from bus.sinks import RunRef
from bus.source import Source

__all__ = ["RunsInLog", "RunsSeen", "is_for_sink"]

REMEMBERED_SECONDS = 30 * 86_400.0
"""A run that has been silent for longer is not looked after any more, as by the log group."""

ASKED_SOURCES = 4
"""So many sources of a run are asked for which sinks it was started."""

REMEMBERED_ENDS = 20_000
REMEMBERED_RUNS = 20_000


class RunsInLog:
    """The runs under way by the event log: also those that this worker has never heard of.

    Args:
        sink: The name of the sink.
        log: The event log.
        since: The start of the group, Unix seconds: what was silent since is not in the sink.
        is_ours: Whether a run is of a shard of this worker.
        wall_clock: Unix seconds.
    """

    def __init__(
        self,
        sink: str,
        log: AsyncEventLog,
        since: float,
        is_ours: Callable[[str], bool],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._log = log
        self._since = since
        self._is_ours = is_ours
        self._wall_clock = wall_clock
        self._is_for_us: dict[RunKey, bool] = {}

    async def find(self) -> Mapping[RunKey, RunRef]:
        """Ask the log.

        Raises:
            LogError: It cannot be read now.
        """
        since = max(self._since, self._wall_clock() - REMEMBERED_SECONDS)
        found = {
            (one.project, one.run): one
            for one in await self._log.runs_under_way(since)
            if self._is_ours(one.run)
        }
        fresh = {run: one for run, one in found.items() if run not in self._is_for_us}
        known = {run: is_for for run, is_for in self._is_for_us.items() if run in found}
        self._is_for_us = {**known, **await self._ask(fresh)}
        return {
            run: RunRef(one.project, one.run, one.run_name)
            for run, one in found.items()
            if self._is_for_us[run] and self._is_ours(one.run)
        }

    async def _ask(self, runs: Mapping[RunKey, RunUnderWay]) -> dict[RunKey, bool]:
        """Whether runs were started for this sink; where nobody says, it is for all."""
        asked = {run: one.sources[:ASKED_SOURCES] for run, one in runs.items()}
        names = [name for sources in asked.values() for name in sources]
        raws = await self._log.first_events(names, "run_started") if names else {}
        return {
            run: any(name not in raws or is_for_sink(self._sink, raws[name]) for name in sources)
            for run, sources in asked.items()
        }


@dataclass(slots=True)
class RunsSeen:
    """The runs under way by what has come on the bus: for a worker without the event log."""

    sink: str
    _open: OrderedDict[RunKey, RunRef] = field(default_factory=OrderedDict)
    _sources: dict[RunKey, set[str]] = field(default_factory=dict)
    _ended: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def see(self, envelope: Envelope, raw: bytes) -> None:
        """An event has come; in any order, and perhaps again."""
        run = (envelope.project, envelope.subject)
        source, kind = envelope.source, envelope.kind
        if Source.parse(source).is_loss:
            if kind == "run_finished":
                self._close(
                    run, [s for s in self._of(run) if str(Source.parse(s).loss()) == source]
                )
        elif kind == "run_finished" or not self._is_for_us(kind, raw):
            self._ended[source] = None
            if len(self._ended) > REMEMBERED_ENDS:
                self._ended.popitem(last=False)
            self._close(run, [source])
        elif source not in self._ended:
            self._open[run] = RunRef(*run, envelope.runname)
            self._sources.setdefault(run, set()).add(source)
            if len(self._open) > REMEMBERED_RUNS:
                oldest, _ = self._open.popitem(last=False)
                del self._sources[oldest]

    async def find(self) -> Mapping[RunKey, RunRef]:
        """What was seen of runs that have not ended."""
        return dict(self._open)

    def drop(self, is_gone: Callable[[RunKey], bool]) -> None:
        """Forget runs: they are another worker's now."""
        for run in [run for run in self._open if is_gone(run)]:
            del self._open[run], self._sources[run]

    def _of(self, run: RunKey) -> set[str]:
        return self._sources.get(run, set())

    def _close(self, run: RunKey, ended: Collection[str]) -> None:
        left = self._of(run) - set(ended)
        if left:
            self._sources[run] = left
        elif run in self._open:
            del self._open[run], self._sources[run]

    def _is_for_us(self, kind: str, raw: bytes) -> bool:
        return kind != "run_started" or is_for_sink(self.sink, raw)


def is_for_sink(sink: str, raw: bytes) -> bool:
    """Whether a ``run_started`` names a sink, or none; also where it cannot be read."""
    try:
        data = decode(raw).data
    except EventError:
        return True
    chosen = data.sinks if isinstance(data, RunStarted) else None
    return chosen is None or sink in chosen
