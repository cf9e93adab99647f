"""Replay: events of the log back onto the bus, for one group, at a chosen pace.

What to send when is decided in :class:`Pace`, without a clock; :func:`replay` does the sending.
Events come in id order per source and by time over all sources, so that "paced" means: with the
distances in time that they had, divided by the speed. One that was overtaken is due at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from bus.errors import ConfigError
from bus.eventlog.records import LoggedEvent
from bus.events import decode_envelope
from bus.topics import Topics

__all__ = ["Pace", "Publisher", "parse_speed", "replay"]

WINDOW = 64
"""Events sent and not yet acknowledged by the broker."""

READ_AHEAD = 64
"""Events fetched from the log at once, in a thread."""


class Publisher(Protocol):
    """What replay needs of :class:`bus.mqtt.Link`."""

    async def publish(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 1; return when the broker has it."""


def parse_speed(text: str) -> float | None:
    """Read a speed: ``1x``, ``10x``, ``0.5x``, or ``max``, which is None.

    Raises:
        ConfigError: It is none of these.
    """
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise ConfigError(f"--speed {text}: use 1x, 10x or another factor, or max")
    return speed


@dataclass(slots=True)
class Pace:
    """When each event is due.

    Attributes:
        speed: How many times faster than it happened; None for no waiting.
    """

    speed: float | None
    _begin: tuple[float, float] | None = field(default=None)

    def delay(self, event_time: float, now: float) -> float:
        """Seconds to wait before the next event is sent.

        Being late is made up for: times count from the first event, not from the last.

        Args:
            event_time: When it happened, Unix seconds.
            now: By any clock in seconds, always the same one.
        """
        if self.speed is None:
            return 0.0
        if self._begin is None:
            self._begin = (event_time, now)
        first_time, start = self._begin
        return max(0.0, start + (event_time - first_time) / self.speed - now)


async def replay(
    events: Iterator[LoggedEvent],
    publisher: Publisher,
    topics: Topics,
    group: str,
    pace: Pace,
    *,
    on_sent: Callable[[int], None] = lambda size: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Publish events to a group, in order; return when the broker has all of them.

    Args:
        events: As :meth:`bus.eventlog.EventLog.select` gives them; read in a thread.
        publisher: An open link.
        topics: The topics of the bus.
        group: Which group.
        pace: When.
        on_sent: Called with the size in bytes of each event that the broker has.
        clock: Seconds.
        sleep: Waits.

    Raises:
        BrokerError: The link was lost. What was sent is dropped as a duplicate next time.
        LogError: The log cannot be read any further.
        EventError: The log holds what is no event.
    """
    pending: deque[tuple[asyncio.Task[None], int]] = deque()

    async def settle(down_to: int) -> None:
        while len(pending) > down_to:
            task, size = pending[0]
            await task
            pending.popleft()
            on_sent(size)

    try:
        while page := await asyncio.to_thread(lambda: list(islice(events, READ_AHEAD))):
            for event in page:
                delay = pace.delay(event.time, clock())
                if delay > 0:
                    # Let the count of what is sent keep up before a pause.
                    await settle(0)
                    await sleep(pace.delay(event.time, clock()))
                await settle(WINDOW - 1)
                envelope = decode_envelope(event.raw)
                topic = topics.replay(group, envelope.project, envelope.subject, envelope.kind)
                # Tasks begin in the order they are made, and publishing begins with the sending.
                task = asyncio.create_task(publisher.publish(topic, event.raw))
                pending.append((task, len(event.raw)))
        await settle(0)
    finally:
        for task, _ in pending:
            task.cancel()
        await asyncio.gather(*(task for task, _ in pending), return_exceptions=True)
