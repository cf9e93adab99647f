"""Dead letters that a person wants tried again, on their way back to their runs.

The request is kept in the event log (state ``retried``): whoever owns the run's shard finds it
there, at takeover, every 15 s, and at once when ``trainbus dead retry`` sends the event to the
group as a replay. That message is only the nudge, and is acknowledged like any duplicate.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from bus.errors import EventError, LogError
from bus.eventlog import DeadLetter, SourceState
from bus.eventlog.aio import AsyncEventLog
from bus.events import decode_envelope
from bus.feed import Item
from bus.sinks import RunRef
from subscribers.worker.writer import DeadLetterKeeper

__all__ = ["Retries", "Retry"]

logger = logging.getLogger(__name__)

LOOK_SECONDS = 15.0
AGAIN_SECONDS = 1.0
"""The least time between two looks: a large replay nudges with every event."""


@dataclass(frozen=True, slots=True)
class Retry:
    """One event to try again.

    Attributes:
        state: What the log holds of its source; None when it knows none.
    """

    run: RunRef
    item: Item
    state: SourceState | None


class Retries:
    """Looks for letters to try again."""

    def __init__(
        self,
        log: AsyncEventLog,
        letters: DeadLetterKeeper,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._letters = letters
        self._clock = clock
        self._is_nudged = False
        self._looked_at = clock() - LOOK_SECONDS

    def nudge(self) -> None:
        """There may be a letter to try again."""
        self._is_nudged = True

    async def look(
        self, is_ours: Callable[[str], bool], is_here: Callable[[DeadLetter], bool]
    ) -> list[Retry]:
        """The next events to try again, if it is time to look.

        Args:
            is_ours: Whether a run is of a shard that is owned.
            is_here: Whether a letter is being tried already.
        """
        since = self._clock() - self._looked_at
        if since < (AGAIN_SECONDS if self._is_nudged else LOOK_SECONDS):
            return []
        self._looked_at, self._is_nudged = self._clock(), False
        try:
            letters = await self._letters.wanted(is_ours, is_here)
            names = sorted({letter.source for letter in letters})
            states = await self._log.states(names) if names else {}
        except LogError as error:
            logger.warning("cannot look for dead letters to retry: %s", error)
            return []
        # There may be more of a run than are read at once.
        self._is_nudged = self._is_nudged or bool(letters)
        return [retry for letter in letters if (retry := self._retry(letter, states))]

    def _retry(self, letter: DeadLetter, states: dict[str, SourceState]) -> Retry | None:
        try:
            envelope = decode_envelope(letter.raw)
        except EventError as error:
            logger.error("dead letter %d holds no event: %s", letter.key, error)
            return None
        run = RunRef(letter.project, letter.run, envelope.runname)
        item = Item(
            *(letter.source, letter.id, envelope.kind, letter.raw),
            delivery=None,
            since=self._clock(),
            is_retry=True,
        )
        return Retry(run, item, states.get(letter.source))
