"""Looking into the event log for what a worker's shards have missed, and noting how far it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from bus.eventlog import SourceState
from bus.eventlog.aio import AsyncEventLog
from subscribers.worker.lookback import LookBack

__all__ = ["LogLook"]

REMEMBERED_SOURCES = 20_000


class LogLook:
    """Finds sources that the event log has more of than a worker knew.

    Args:
        sink: The name of the sink, under which cursors are kept.
        log: The event log.
        shards: Shards of the group.
        since: The group's start, Unix seconds.
    """

    def __init__(self, sink: str, log: AsyncEventLog, shards: int, since: float) -> None:
        self._sink = sink
        self._log = log
        self._shards = shards
        self._look_back = LookBack(since)
        self._seen: OrderedDict[str, str] = OrderedDict()

    def begin_anew(self, shards: Iterable[int]) -> None:
        """These shards became ours, or their link is back: they are looked at from their cursor."""
        self._look_back.forget(shards)

    def lose(self, shards: Iterable[int]) -> None:
        """These shards are others' now."""
        self._look_back.forget(shards)
        # Should they come back, what was seen here may not have been written.
        self._seen.clear()

    async def look(
        self,
        shards: frozenset[int],
        busy: Callable[[], frozenset[int]],
        is_ours: Callable[[str], bool],
        is_here: Callable[[SourceState], bool],
    ) -> list[SourceState]:
        """The sources with news since the last look.

        Args:
            shards: Those that are owned.
            busy: Gives the shards with something left to do: their cursors stay where they are.
            is_ours: Whether a run is of a shard that is owned, by the time the answer is there.
            is_here: Whether the run of a source is in memory: then it is told of in any case.

        Raises:
            LogError: The log cannot be read now.
        """
        for shard in self._look_back.unknown(shards):
            self._look_back.begin(shard, await self._read_cursor(shard))
        states = await self._log.changed_since(self._look_back.start(shards))
        await self._keep_cursors(shards - busy())
        self._look_back.looked(shards, max((state.changed_at for state in states), default=0.0))
        ours = [state for state in states if is_ours(state.run)]
        return [state for state in ours if self._is_news(state) or is_here(state)]

    async def _read_cursor(self, shard: int) -> float | None:
        kept = await self._log.get_sink_state(self._sink, "", self._cursor_name(shard))
        return float(kept) if kept else None

    async def _keep_cursors(self, shards: Iterable[int]) -> None:
        """Note how far back the next owner of these shards has to look."""
        for shard in shards:
            start = self._look_back.to_save(shard)
            if start is not None:
                name = self._cursor_name(shard)
                await self._log.put_sink_state(self._sink, "", name, repr(start).encode())

    def _cursor_name(self, shard: int) -> str:
        # With the start, so that a group that is moved back to an earlier one looks anew.
        return f"looked:{shard}/{self._shards}@{self._look_back.since!r}"

    def _is_news(self, state: SourceState) -> bool:
        """Whether the source has changed since it was looked at; remembers the last ones."""
        text = f"{state.stored}|{state.lost}"
        known = self._seen.get(state.source) == text
        self._seen[state.source] = text
        self._seen.move_to_end(state.source)
        if len(self._seen) > REMEMBERED_SOURCES:
            self._seen.popitem(last=False)
        return not known
