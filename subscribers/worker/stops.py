"""Runs that a tracker wants stopped: from the sink to the control topic, until it is published."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bus.control import MAX_SOURCES, encode_stop
from bus.errors import BrokerError, EventError, LogError
from bus.eventlog.aio import AsyncEventLog
from bus.ratelimit import RunKey
from bus.retry import Backoff
from bus.sinks import RunRef
from bus.topics import Topics

__all__ = ["Publish", "StopNotices"]

logger = logging.getLogger(__name__)

REMEMBERED_STOPS = 1000
SHOWN_STOPS = 5
_SHOWN_CHARACTERS = 120

Publish = Callable[[str, bytes], Awaitable[None]]
"""Publishes a payload to a topic with QoS 1; raises BrokerError when it could not."""


@dataclass(slots=True)
class _Stop:
    run: RunRef
    reason: str
    time: float
    is_published: bool = False


class StopNotices:
    """Tells runs to stop (:mod:`bus.control`) as their tracker asks.

    What is not published yet is lost with the worker: the tracker says it again to the next one.

    Args:
        sink: The name of the sink, which is named as who asks.
        topics: Where to publish.
        publish: How.
        log: Says which processes of a run are meant; without it, all that are there.
        wall_clock: Unix seconds.
    """

    def __init__(
        self,
        sink: str,
        topics: Topics,
        publish: Publish,
        log: AsyncEventLog | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._topics = topics
        self._publish = publish
        self._log = log
        self._wall_clock = wall_clock
        self._stops: OrderedDict[RunKey, _Stop] = OrderedDict()
        self._wake = asyncio.Event()

    def tell(self, run: RunRef, reason: str) -> None:
        """The tracker wants a run stopped (:data:`bus.sinks.StopListener`)."""
        key = (run.project, run.run)
        known = self._stops.get(key)
        if known is not None and not known.is_published:
            return
        logger.warning("%s: run %s is asked to stop: %s", self._sink, run.run, reason)
        self._stops[key] = _Stop(run, reason, self._wall_clock())
        self._stops.move_to_end(key)
        if len(self._stops) > REMEMBERED_STOPS:
            self._drop_oldest()
        self._wake.set()

    async def run(self) -> None:
        """Publish what there is, again until it is acknowledged; never returns."""
        backoff = Backoff()
        while True:
            await self._wake.wait()
            self._wake.clear()
            for stop in [one for one in self._stops.values() if not one.is_published]:
                try:
                    await self._send(stop)
                    backoff.reset()
                except BrokerError as error:
                    logger.info("%s: run %s: %s; will retry", self._sink, stop.run.run, error)
                    self._wake.set()
                    await asyncio.sleep(backoff.next_seconds())

    def report(self) -> list[dict[str, Any]]:
        """The last runs that were told to stop, for the heartbeat."""
        return [
            {
                "project": _shown(stop.run.project),
                "run": _shown(stop.run.run),
                "reason": _shown(stop.reason),
                "published": stop.is_published,
            }
            for stop in list(self._stops.values())[-SHOWN_STOPS:]
        ]

    async def _send(self, stop: _Stop) -> None:
        try:
            topic = self._topics.control(stop.run.project, stop.run.run)
            for sources in await self._sources(stop.run):
                await self._publish(topic, encode_stop(stop.reason, self._sink, stop.time, sources))
        except EventError as error:  # a sink of others may name a run that cannot exist
            logger.error("%s: cannot ask run %r to stop: %s", self._sink, stop.run.run, error)
        stop.is_published = True

    async def _sources(self, run: RunRef) -> list[Sequence[str]]:
        """The processes that are meant, so many at a time; all that are there if nobody knows."""
        if self._log is None:
            return [()]
        try:
            found = await self._log.runs_under_way(0.0, (run.project, run.run))
        except LogError as error:
            logger.warning("%s: run %s: its processes are unknown: %s", self._sink, run.run, error)
            return [()]
        names = [name for one in found for name in one.sources]
        return [names[at : at + MAX_SOURCES] for at in range(0, len(names), MAX_SOURCES)] or [()]

    def _drop_oldest(self) -> None:
        done = next((key for key, one in self._stops.items() if one.is_published), None)
        del self._stops[done if done is not None else next(iter(self._stops))]


def _shown(text: str) -> str:
    """A part of any text that a heartbeat can carry and a terminal can show."""
    part = text[:_SHOWN_CHARACTERS]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in part)
