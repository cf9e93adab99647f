"""Where the dead letters of a sink worker go: into the event log, and onto the bus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from bus.deadletters import encode_letter
from bus.errors import BrokerError, EventError, LogError, PermanentSinkError
from bus.eventlog import DeadLetter
from bus.eventlog.aio import AsyncEventLog
from bus.eventlog.records import RESOLVED
from bus.feed import Item
from bus.group.host import GroupHost
from bus.sinks import RunRef
from bus.topics import Topics

__all__ = ["DeadLetters"]

LETTERS_PER_RUN = 20
"""Dead letters of one run that are tried again before the next ones are read."""
LETTERS_AT_ONCE = 200

_LATER_SECONDS = 0.001


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
        self._known: dict[tuple[str, int], float] = {}
        """The times of letters that are being tried again."""

    async def keep(self, run: RunRef, item: Item, error: Exception, attempts: int) -> None:
        """Keep one event that the sink will never take.

        Raises:
            LogError: Neither the event log nor, without one, the broker takes it now.
        """
        letter = self._letter(run, item, attempts)
        await self._tell(replace(letter, reason=_reason(error), error=str(error)))

    async def resolve(self, run: RunRef, item: Item, attempts: int) -> None:
        """Note that a dead letter was delivered after all.

        Raises:
            LogError: Neither the event log nor, without one, the broker takes it now.
        """
        await self._tell(replace(self._letter(run, item, attempts), state=RESOLVED))

    async def wanted(
        self, is_ours: Callable[[str], bool], is_here: Callable[[DeadLetter], bool]
    ) -> list[DeadLetter]:
        """The next dead letters to try again: of the oldest few of each run, those not here yet.

        Raises:
            LogError: The event log cannot be read now.
        """
        if self._log is None:
            return []
        per_run: Counter[tuple[str, str]] = Counter()
        keys: list[int] = []
        for letter in await self._log.retried_letters(self._group):
            run = (letter.project, letter.run)
            if is_ours(letter.run) and per_run[run] < LETTERS_PER_RUN:
                per_run[run] += 1
                if not is_here(letter):
                    keys.append(letter.key)
        found = await self._log.dead_letters(keys[:LETTERS_AT_ONCE]) if keys else []
        self._known |= {(letter.source, letter.id): letter.time for letter in found}
        return found

    def _letter(self, run: RunRef, item: Item, attempts: int) -> DeadLetter:
        # What becomes of a letter is later than the letter, whatever the clocks of workers say.
        known = self._known.get((item.source, item.number), 0.0) + _LATER_SECONDS
        return DeadLetter(
            group=self._group,
            source=item.source,
            id=item.number,
            run=run.run,
            project=run.project,
            reason="",
            error="",
            attempts=attempts,
            time=max(self._wall_clock(), known),
            raw=item.raw,
        )

    async def _tell(self, letter: DeadLetter) -> None:
        """Tell the log, and whoever watches the bus; without the log, the log group does it."""
        if self._log is not None:
            await self._log.add_dead_letter(letter)
        try:
            await self._publish(letter)
        except BrokerError as failure:
            if self._log is None:
                raise LogError(str(failure)) from failure
        self._known.pop((letter.source, letter.id), None)

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
