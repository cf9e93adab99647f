"""The event log from inside an event loop: its calls block, so they run in threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from bus.eventlog.log import EventLog
from bus.eventlog.records import (
    RETRIED,
    AppendResult,
    DeadLetter,
    Group,
    LoggedEvent,
    LogRecord,
    RunUnderWay,
    SourceState,
)

__all__ = ["AsyncEventLog"]

P = ParamSpec("P")
T = TypeVar("T")


class AsyncEventLog:
    """What workers ask of the event log; each method as its namesake of :class:`EventLog`."""

    def __init__(self, log: EventLog, threads: int = 2) -> None:
        self._log = log
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="event-log")

    @classmethod
    async def open(cls, url: str, threads: int = 2) -> AsyncEventLog:
        """Open the log behind a database URL.

        Raises:
            LogError: It cannot be reached, or is not an event log.
            ConfigError: The URL is malformed or its driver is missing.
        """
        return cls(await asyncio.to_thread(EventLog.open, url), threads)

    async def _call(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: call(*args, **kwargs))

    async def append(self, records: Sequence[LogRecord], now: float) -> AppendResult:
        """Store events in one synced transaction."""
        return await self._call(self._log.append, records, now)

    async def record_lost(
        self, source: str, first: int, last: int, reason: str, now: float
    ) -> SourceState | None:
        """Give up the ids from ``first`` to ``last`` that are not in the log."""
        return await self._call(self._log.record_lost, source, first, last, reason, now)

    async def read(
        self, source: str, first: int, last: int, kind: str | None = None
    ) -> list[LoggedEvent]:
        """Events of a source in order, as many as one call may bring; of one kind, or all."""
        return await self._call(self._log.read, source, first, last, kind=kind)

    async def changed_since(self, since: float) -> list[SourceState]:
        """Sources that the log wrote to at or after a time (Unix seconds)."""
        return await self._call(self._log.changed_since, since)

    async def unfinished_sources(self, since: float) -> list[SourceState]:
        """Sources without an end of their own, changed lately."""
        return await self._call(self._log.unfinished_sources, since)

    async def runs_under_way(
        self, since: float, run: tuple[str, str] | None = None
    ) -> list[RunUnderWay]:
        """Runs that have started and not ended: all, or one (project, run)."""
        return await self._call(self._log.runs_under_way, since, run)

    async def first_events(self, names: Sequence[str], kind: str) -> dict[str, bytes]:
        """The bytes of the first events of sources, those of a kind."""
        return await self._call(self._log.first_events, names, kind)

    async def states(self, names: Sequence[str]) -> dict[str, SourceState]:
        """The sources of these names that the log knows."""
        return await self._call(self._log.states, names)

    async def get_sink_state(self, group: str, project: str, run: str) -> bytes | None:
        """What a group keeps in the log about a run."""
        return await self._call(self._log.get_sink_state, group, project, run)

    async def put_sink_state(self, group: str, project: str, run: str, value: bytes) -> None:
        """Keep something in the log about a run."""
        await self._call(self._log.put_sink_state, group, project, run, value)

    async def swap_sink_state(
        self, group: str, project: str, run: str, before: bytes | None, value: bytes
    ) -> bool:
        """Keep something about a run in place of ``before``; False when that is not there."""
        return await self._call(self._log.swap_sink_state, group, project, run, before, value)

    async def register_group(self, group: str, shards: int, now: float) -> Group:
        """Note that a group exists; returns what was noted first."""
        return await self._call(self._log.register_group, group, shards, now)

    async def move_group_start(self, group: str, started_at: float) -> Group | None:
        """Let a group start earlier."""
        return await self._call(self._log.move_group_start, group, started_at)

    async def add_dead_letter(self, letter: DeadLetter) -> bool:
        """Keep a dead letter, or what became of it; False if that is no news."""
        return await self._call(self._log.add_dead_letter, letter)

    async def retried_letters(self, group: str) -> list[DeadLetter]:
        """The letters of a group that are to be tried again, without their bytes."""
        return await self._call(
            self._log.dead_letters, group=group, states=(RETRIED,), has_raw=False
        )

    async def dead_letters(self, keys: Sequence[int]) -> list[DeadLetter]:
        """The letters of these numbers."""
        return await self._call(self._log.dead_letters, keys=keys)

    async def close(self) -> None:
        """Close the log once the calls under way have returned."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._log.close)
