"""Runs that a tracker wants stopped: from the sink to the control topic (:mod:`bus.control`).

A notice is sent until the broker has it. That is not yet the shipper, which may be connecting just
then: where the event log says which processes are meant, it is sent to them again, more and more
seldom, as long as they go on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from bus.control import MAX_SOURCES, encode_stop
from bus.errors import BrokerError, EventError, LogError
from bus.eventlog.aio import AsyncEventLog
from bus.ratelimit import RunKey
from bus.retry import Backoff
from bus.sinks import RunRef
from bus.source import Source
from bus.topics import Topics
from bus.waiting import wait_for_event

__all__ = ["Publish", "StopNotices"]

logger = logging.getLogger(__name__)

REMEMBERED_STOPS = 1000
SHOWN_STOPS = 5
FIRST_AGAIN_SECONDS = 5.0
LAST_AGAIN_SECONDS = 1800.0
"""A notice is sent again after the first of these, then after twice that, until the last."""

LOOK_SECONDS = 3600.0
LOG_SECONDS = 5.0
"""The event log is waited for so long: then the notice is for all processes that are there."""
_SHOWN_CHARACTERS = 120

Publish = Callable[[str, bytes], Awaitable[None]]
"""Publishes a payload to a topic with QoS 1; raises BrokerError when it could not."""


@dataclass(slots=True)
class _Stop:
    run: RunRef
    reason: str
    time: float
    due_at: float
    """Monotonic; infinite when nothing is left to be done."""
    is_published: bool = False
    names: tuple[str, ...] = ()
    """The processes that were told."""
    wait_seconds: float = FIRST_AGAIN_SECONDS


class StopNotices:
    """Tells runs to stop as their tracker asks.

    What is not published yet is lost with the worker: the tracker says it again to the next one.

    Args:
        sink: The name of the sink, which is named as who asks.
        topics: Where to publish.
        publish: How.
        log: Says which processes of a run are meant; without it, all that are there.
        clock: Monotonic seconds.
        wall_clock: Unix seconds.
    """

    def __init__(
        self,
        sink: str,
        topics: Topics,
        publish: Publish,
        log: AsyncEventLog | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._topics = topics
        self._publish = publish
        self._log = log
        self._clock = clock
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
        self._stops[key] = _Stop(run, reason, self._wall_clock(), self._clock())
        self._stops.move_to_end(key)
        if len(self._stops) > REMEMBERED_STOPS:
            self._drop_oldest()
        self._wake.set()

    async def run(self) -> None:
        """Send what is due; never returns."""
        backoff = Backoff()
        while True:
            self._wake.clear()
            for stop in [one for one in self._stops.values() if one.due_at <= self._clock()]:
                try:
                    await self._send(stop)
                    backoff.reset()
                except BrokerError as error:
                    logger.info("%s: run %s: %s; will retry", self._sink, stop.run.run, error)
                    stop.due_at = self._clock() + backoff.next_seconds()
            due_at = min((one.due_at for one in self._stops.values()), default=math.inf)
            wait = min(max(due_at - self._clock(), 0.0), LOOK_SECONDS)
            await wait_for_event(self._wake, wait)

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
            names = await self._names(stop)
            if names or not stop.is_published:
                for start in range(0, max(len(names), 1), MAX_SOURCES):
                    part = names[start : start + MAX_SOURCES]
                    await self._publish(
                        topic, encode_stop(stop.reason, self._sink, stop.time, part)
                    )
        except EventError as error:  # a sink of others may name a run that cannot exist
            logger.error("%s: cannot ask run %r to stop: %s", self._sink, stop.run.run, error)
            names = ()
        is_over = not names or stop.wait_seconds > LAST_AGAIN_SECONDS
        stop.due_at = math.inf if is_over else self._clock() + stop.wait_seconds
        stop.wait_seconds *= 2
        stop.is_published, stop.names = True, names

    async def _names(self, stop: _Stop) -> tuple[str, ...]:
        """The processes that are meant; none when nobody knows, or none is left."""
        if self._log is None:
            return ()
        try:
            async with asyncio.timeout(LOG_SECONDS):
                found = await self._log.runs_under_way(0.0, (stop.run.project, stop.run.run))
        except (LogError, TimeoutError) as error:
            cause = str(error) or f"no answer within {LOG_SECONDS:g} s"
            logger.warning(
                "%s: run %s: its processes are unknown: %s", self._sink, stop.run.run, cause
            )
            return stop.names
        names = [name for one in found for name in one.sources]
        if stop.is_published:
            # Not those that were started since: they are another try.
            names = [name for name in names if name in stop.names or _is_older(name, stop.time)]
        return tuple(names)

    def _drop_oldest(self) -> None:
        done = next((key for key, one in self._stops.items() if one.is_published), None)
        del self._stops[done if done is not None else next(iter(self._stops))]


def _is_older(name: str, time: float) -> bool:
    return Source.parse(name).started_seconds <= time


def _shown(text: str) -> str:
    """A part of any text that a heartbeat can carry and a terminal can show."""
    part = text[:_SHOWN_CHARACTERS]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in part)
