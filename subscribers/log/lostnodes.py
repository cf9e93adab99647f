"""The log group's word about nodes that nobody hears: written into the log, then published.

It is an event like any other, of a source of its own, so that every sink and every replay sees the
same end of the run. Sinks that miss it on the bus read it from the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from bus.errors import BrokerError, LogError
from bus.eventlog import AppendResult, LogRecord
from bus.eventlog.aio import AsyncEventLog
from bus.events import Event, encode
from bus.group.host import GroupHost
from bus.kinds import RunFinished, RunStarted
from bus.source import Source
from bus.topics import Topics
from subscribers.log.nodewatch import NodeWatch, OpenSource

__all__ = ["LostNodes"]

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
REMEMBERED_SECONDS = 30 * 86_400.0
"""A source that has been silent for longer is looked at again only if it speaks."""


class LostNodes:
    """Watches the open sources of a log worker's shards.

    Args:
        is_ours: Whether this member owns the shard of a run.
        on_stored: Called with what was stored, to confirm it.
    """

    def __init__(
        self,
        log: AsyncEventLog,
        topics: Topics,
        grace_seconds: float,
        is_ours: Callable[[str], bool],
        on_stored: Callable[[AppendResult], None],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.host: GroupHost | None = None
        self._log = log
        self._topics = topics
        self._watch = NodeWatch(grace_seconds)
        self._is_ours = is_ours
        self._on_stored = on_stored
        self._clock = clock
        self._wall_clock = wall_clock
        self._has_new_shards = False

    @property
    def watched(self) -> int:
        """Sources whose run has not ended."""
        return len(self._watch)

    def shards_changed(self) -> None:
        """Other shards are ours now: their open sources are in the log."""
        self._has_new_shards = True

    def heard(self, live: Iterable[str]) -> None:
        """A shipper serves these sources."""
        self._watch.heard(live, self._clock())

    def stored(self, records: Sequence[LogRecord]) -> None:
        """Events were stored."""
        now = self._clock()
        for record in records:
            if record.kind == "run_finished":
                self._watch.finished(record.source)
            elif record.source in self._watch:
                self._watch.stored(record.source, now)
            elif not Source.parse(record.source).is_loss:
                self._watch.learn(
                    OpenSource(record.source, record.project, record.run, record.run_name, now)
                )

    async def tend(self) -> None:
        """Look once a second; never returns."""
        while True:
            try:
                if self._has_new_shards:
                    self._has_new_shards = False
                    await self._load()
                for one in self._watch.due(self._clock()):
                    await self._speak(one)
            except LogError as error:
                self._has_new_shards = True
                logger.warning("log: cannot look after lost nodes, will retry: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def _load(self) -> None:
        """Take up the open sources of our shards from the log."""
        self._watch.keep(self._is_ours)
        states = await self._log.unfinished_sources(self._wall_clock() - REMEMBERED_SECONDS)
        ours = [state for state in states if self._is_ours(state.run)]
        names = {state.source: str(Source.parse(state.source).loss()) for state in ours}
        words = await self._log.states(list(names.values()))
        now = self._clock()
        for state in ours:
            if state.source not in self._watch:
                word = words.get(names[state.source])
                loss = word.stored.top if word else 0
                self._watch.learn(
                    OpenSource(
                        state.source, state.project, state.run, state.run_name, now, loss, now
                    )
                )

    async def _speak(self, one: OpenSource) -> None:
        """Write the next word about a source."""
        record = self._record(one, one.loss + 1)
        result = await self._log.append([record], self._wall_clock())
        self._watch.spoken(one.source, record.id, self._clock())
        said = "is lost" if record.kind == "run_finished" else "has returned"
        logger.warning("log: run %s: node %s %s", one.run, Source.parse(one.source).node, said)
        self._on_stored(result)
        link = self.host.link if self.host else None
        if link is not None:
            topic = self._topics.event(record.project, record.run, record.kind)
            try:
                await link.publish(topic, record.raw)
            except BrokerError as error:
                logger.info("log: %s; sinks read it from the log", error)

    def _record(self, one: OpenSource, loss: int) -> LogRecord:
        source = Source.parse(one.source)
        silent = self._clock() - one.heard_at
        data: RunFinished | RunStarted
        if loss % 2:
            data = RunFinished(
                status="killed",
                last_id=loss,
                error=f"node {source.node} was lost",
                rank=source.rank,
                attempt=source.attempt,
                loss=loss,
            )
        else:
            data = RunStarted(rank=source.rank, attempt=source.attempt, loss=loss)
        event = Event(
            kind="run_finished" if loss % 2 else "run_started",
            source=str(source.loss()),
            id=loss,
            run=one.run,
            project=one.project,
            run_name=one.run_name,
            time=self._wall_clock() - (silent if loss % 2 else 0.0),
            data=data,
        )
        return LogRecord(
            source=event.source,
            id=loss,
            run=one.run,
            project=one.project,
            run_name=one.run_name,
            kind=event.kind,
            time=event.time,
            raw=encode(event),
        )
