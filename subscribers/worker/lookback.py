"""From when on the event log is to be looked at for each shard: pure.

A look asks for the sources changed since a time. That time moves on with what the log's writers
say, per shard: one that was just gained has to be looked at from further back. It is kept in
the log (the *cursor*) whenever everything that was seen is in the sink, so that the next owner of a
shard does not begin with the first run the group ever had.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bus.eventlog.log import CHANGED_MARGIN_SECONDS

__all__ = ["LookBack"]

SAVE_SECONDS = 30.0
"""A cursor is written again when it has moved on by so much."""


@dataclass(slots=True)
class LookBack:
    """The look-back of one worker. All times are Unix seconds by the log's writers.

    Attributes:
        since: The group's start; nothing before it concerns the group.
    """

    since: float
    _from: dict[int, float] = field(default_factory=dict)
    _saved: dict[int, float] = field(default_factory=dict)

    def unknown(self, owned: Iterable[int]) -> list[int]:
        """Shards whose cursor has not been read yet."""
        return [shard for shard in owned if shard not in self._from]

    def begin(self, shard: int, cursor: float | None) -> None:
        """Look at a shard from its cursor on, or from the group's start."""
        start = self.since if cursor is None else max(cursor, self.since)
        self._from[shard] = self._saved[shard] = start

    def forget(self, shards: Iterable[int]) -> None:
        """These shards are another's, or their session began anew."""
        for shard in shards:
            self._from.pop(shard, None)
            self._saved.pop(shard, None)

    def start(self, shards: Iterable[int]) -> float:
        """From when on to ask for these shards.

        One that was lost or began anew while cursors were read has its look afterwards.
        """
        known = [self._from[shard] for shard in shards if shard in self._from]
        return min(known, default=self.since)

    def looked(self, shards: Iterable[int], newest: float) -> None:
        """These shards were looked at; the newest change seen was at ``newest``."""
        for shard in shards:
            if shard in self._from:
                self._from[shard] = max(self._from[shard], newest - CHANGED_MARGIN_SECONDS)

    def to_save(self, shard: int) -> float | None:
        """The cursor to keep now that all seen of a shard is in the sink; None: not yet."""
        start = self._from.get(shard)
        if start is None or start - self._saved[shard] < SAVE_SECONDS:
            return None
        self._saved[shard] = start
        return start
