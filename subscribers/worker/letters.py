"""Where the dead letters of a sink worker go: into the event log, and onto the bus."""

from __future__ import annotations

import time
from collections.abc import Callable

from bus.deadletters import encode_letter
from bus.errors import BrokerError, EventError, LogError, PermanentSinkError
from bus.eventlog import DeadLetter
from bus.eventlog.aio import AsyncEventLog
from bus.feed import Item
from bus.group.host import GroupHost
from bus.sinks import RunRef
from bus.topics import Topics

__all__ = ["DeadLetters"]


class DeadLetters:
    """Keeps dead letters (:class:`subscribers.worker.writer.DeadLetterKeeper`)."""

    def __init__(
        self,
        group: str,
        topics: Topics,
        log: AsyncEventLog | None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.host: GroupHost | None = None
        self._group = group
        self._topics = topics
        self._log = log
        self._wall_clock = wall_clock

    async def keep(self, run: RunRef, item: Item, error: Exception, attempts: int) -> None:
        """Keep one event that the sink will never take.

        Raises:
            LogError: Neither the event log nor, without one, the broker takes it now.
        """
        letter = DeadLetter(
            group=self._group,
            source=item.source,
            id=item.number,
            run=run.run,
            project=run.project,
            reason=_reason(error),
            error=str(error),
            attempts=attempts,
            time=self._wall_clock(),
            raw=item.raw,
        )
        if self._log is not None:
            await self._log.add_dead_letter(letter)
        try:
            await self._publish(letter)
        except BrokerError as failure:
            if self._log is None:
                raise LogError(str(failure)) from failure

    async def _publish(self, letter: DeadLetter) -> None:
        link = self.host.link if self.host else None
        if link is None:
            raise BrokerError("the connection to the broker is lost")
        topic = self._topics.dead(letter.group, letter.project, letter.run)
        await link.publish(topic, encode_letter(letter))


def _reason(error: Exception) -> str:
    if isinstance(error, EventError):
        return "undecodable"
    return "permanent" if isinstance(error, PermanentSinkError) else "unknown"
