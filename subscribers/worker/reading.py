"""What a run needs from the event log: what is missing, what is parked, and what will come."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable

from bus.errors import LogError
from bus.eventlog import LoggedEvent
from bus.eventlog.aio import AsyncEventLog
from bus.feed import RunFeed
from bus.item import Item
from bus.retry import Backoff, RetryPolicy
from bus.superseded import latest

__all__ = ["LOOK_AHEAD_SECONDS", "LogReader"]

logger = logging.getLogger(__name__)

LOOK_AHEAD_SECONDS = 5.0
"""The least time between two looks for later checkpoints."""

AHEAD_EVENTS = 1000
"""No more of a source are remembered than this and a page; a run makes them in a few series."""

_ENDLESS = 2**53
_LOG_RETRY = RetryPolicy(initial_seconds=0.5, cap_seconds=10.0)


class LogReader:
    """Reads events of one run into its feed.

    Args:
        run: Its name, for the worker's own log.
        log: Where to read; None for nowhere, then nothing is ever found.
        feed: The run.
        clock: Monotonic seconds.
        again_seconds: How often what is missing is asked for while other events can be written.
    """

    def __init__(
        self,
        run: str,
        log: AsyncEventLog | None,
        feed: RunFeed,
        clock: Callable[[], float],
        again_seconds: float,
    ) -> None:
        self._ahead: list[Item] = []
        self._run = run
        self._log = log
        self._feed = feed
        self._clock = clock
        self._again_seconds = again_seconds
        self._again_at = 0.0
        self._parked_at = 0.0
        self._parked_backoff = Backoff(_LOG_RETRY)
        self._look_ahead_at = 0.0

    async def missing(self, has_work: bool, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Read what has to come next, however long the log is away.

        Args:
            has_work: There is something to write without that: the log is asked now and then only.
            sleep: Waits between attempts; raises to give up.
        """
        now = self._clock()
        # One source that never ends must not keep another from being read.
        if self._log is None or (has_work and now < self._again_at):
            return
        self._again_at = now + self._again_seconds
        backoff = Backoff(_LOG_RETRY)
        for source, first, last in self._feed.wanted(now):
            while True:
                try:
                    found = await self._log.read(source, first, last)
                    break
                except LogError as error:
                    self._warn(error)
                    await sleep(backoff.next_seconds())
            self._offer(found)

    async def parked(self, blocked: Collection[str]) -> None:
        """Read the parked events that may go now. While the log is away the others go on."""
        now = self._clock()
        if self._log is None or now < self._parked_at:
            return
        try:
            for source, first, last, kind in self._feed.wanted_parked(blocked):
                self._offer(await self._log.read(source, first, last, kind))
        except LogError as error:
            self._warn(error)
            self._parked_at = now + self._parked_backoff.next_seconds()
        else:
            self._parked_backoff.reset()

    async def look_ahead(self, firsts: dict[str, int]) -> None:
        """Find the checkpoints that may take the place of those that wait.

        Else a run that makes more of them than its limit lets through would fall behind for ever.

        Args:
            firsts: Per source, the first checkpoint that waits.
        """
        now = self._clock()
        if self._log is None or now < self._look_ahead_at:
            return
        self._look_ahead_at = now + LOOK_AHEAD_SECONDS
        found: list[Item] = []
        try:
            for source, first in firsts.items():
                found += await self._checkpoints(self._log, source, first)
        except LogError as error:
            self._warn(error)
            return
        self._ahead = found

    def ahead(self) -> list[Item]:
        """Later checkpoints, as far as they matter: what :meth:`look_ahead` has found.

        One that is dead takes nobody's place.
        """
        marks = self._feed.marks
        return [item for item in self._ahead if not marks.is_dead(item.source, item.number)]

    async def _checkpoints(self, log: AsyncEventLog, source: str, first: int) -> list[Item]:
        kept: list[Item] = []
        while len(kept) < AHEAD_EVENTS:
            page = await log.read(source, first + 1, _ENDLESS, "checkpoint")
            if not page:
                break
            first = page[-1].id
            alive = (e for e in page if not self._feed.marks.is_dead(source, e.id))
            kept = latest([*kept, *self._items(alive)])
        return kept

    def _offer(self, events: Iterable[LoggedEvent]) -> None:
        for item in self._items(events):
            self._feed.offer(item)

    def _items(self, events: Iterable[LoggedEvent]) -> list[Item]:
        now = self._clock()
        return [Item(e.source, e.id, e.kind, e.raw, None, now) for e in events]

    def _warn(self, error: LogError) -> None:
        logger.warning("run %s: cannot read the event log: %s", self._run, error)
