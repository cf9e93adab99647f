"""Uploads under way: a line in the log now and then, and a few fields for the status."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Upload", "Uploads"]

logger = logging.getLogger(__name__)

_LINE_PERCENT = 10
_LINE_SECONDS = 10.0
_SHOWN = 20
"""Uploads in one report: heartbeats stay small."""


@dataclass(slots=True)
class Upload:
    """One upload.

    Attributes:
        run: Whose it is.
        file: What is uploaded.
        size: Its bytes.
        sent: How many of them are on their way.
    """

    run: str
    file: str
    size: int
    began: float
    clock: Callable[[], float]
    sent: int = 0
    _line_at: float = 0.0
    _line_percent: int = 0

    @property
    def percent(self) -> int:
        """How much of it is sent."""
        return 100 * self.sent // self.size if self.size else 100

    def add(self, size: int) -> None:
        """More bytes are on their way: writes a line every 10 %, or 10 s."""
        self.sent += size
        now, percent = self.clock(), self.percent
        is_far = percent >= self._line_percent + _LINE_PERCENT
        if not is_far and now < max(self._line_at, self.began) + _LINE_SECONDS:
            return
        self._line_at, self._line_percent = now, percent - percent % _LINE_PERCENT
        logger.info(
            "hub: run %s: %s: %d %% of %.1f MB sent, %.0f s",
            *(self.run, self.file, percent, self.size / 1e6, now - self.began),
        )


class Uploads:
    """All uploads of a sink.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way: list[Upload] = []

    @contextmanager
    def begin(self, run: str, file: str, size: int) -> Iterator[Upload]:
        """Show an upload while the block lasts."""
        upload = Upload(run, file, size, self._clock(), self._clock)
        self._under_way.append(upload)
        try:
            yield upload
        finally:
            # By identity: two uploads of the same file may look the same.
            self._under_way = [one for one in self._under_way if one is not upload]

    def state(self) -> dict[str, Any]:
        """For :class:`bus.sinks.ReportsState`; empty when nothing is under way."""
        if not self._under_way:
            return {}
        now = self._clock()
        shown = [
            {
                "run": one.run,
                "file": one.file,
                "percent": one.percent,
                "size_bytes": one.size,
                "seconds": round(now - one.began),
            }
            for one in self._under_way[:_SHOWN]
        ]
        return {"uploads": shown, "uploads_under_way": len(self._under_way)}
