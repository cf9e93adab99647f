"""Which sources have fallen silent, and which have returned: pure.

A trainer that dies is reported by its shipper. When the whole node is gone nobody reports it: the
log group then speaks for it, after a grace period. Its words are counted per source: an odd one
says lost, an even one returned (:class:`bus.lifecycle.RunLife`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

__all__ = ["NodeWatch", "OpenSource"]


@dataclass(slots=True)
class OpenSource:
    """A source whose run has not ended.

    Attributes:
        heard_at: Last sign of life, monotonic seconds.
        loss: The last word about its node: odd lost, even returned, 0 none.
        spoken_at: When that was said.
    """

    source: str
    project: str
    run: str
    run_name: str
    heard_at: float
    loss: int = 0
    spoken_at: float = 0.0

    @property
    def is_lost(self) -> bool:
        """The last word was that its node is lost."""
        return self.loss % 2 == 1


@dataclass(slots=True)
class NodeWatch:
    """The open sources of the shards this member owns.

    Attributes:
        grace_seconds: How long a node may be silent.
    """

    grace_seconds: float
    _open: dict[str, OpenSource] = field(default_factory=dict)

    def __contains__(self, source: str) -> bool:
        return source in self._open

    def __len__(self) -> int:
        return len(self._open)

    def learn(self, source: OpenSource) -> None:
        """Watch a source; what is known of it already gives way."""
        self._open[source.source] = source

    def stored(self, source: str, now: float) -> None:
        """An event of a source was stored: its node was alive, unless it is taken for lost.

        What the broker still held of a lost node is no return of it.
        """
        known = self._open.get(source)
        if known is not None and not known.is_lost:
            known.heard_at = now

    def finished(self, source: str) -> None:
        """The source has ended by its own word."""
        self._open.pop(source, None)

    def heard(self, live: Iterable[str], now: float) -> None:
        """A shipper serves these sources."""
        for source in live:
            known = self._open.get(source)
            if known is not None:
                known.heard_at = now

    def keep(self, is_ours: Callable[[str], bool]) -> None:
        """Forget the sources of runs that other members watch now."""
        self._open = {name: one for name, one in self._open.items() if is_ours(one.run)}

    def due(self, now: float) -> list[OpenSource]:
        """The sources about which a word is due: silent for too long, or heard again."""
        return [one for one in self._open.values() if self._is_due(one, now)]

    def spoken(self, source: str, loss: int, now: float) -> None:
        """The word is in the log."""
        known = self._open.get(source)
        if known is not None:
            known.loss, known.spoken_at = max(known.loss, loss), now

    def _is_due(self, one: OpenSource, now: float) -> bool:
        if one.is_lost:
            return one.heard_at > one.spoken_at
        return now - one.heard_at >= self.grace_seconds
