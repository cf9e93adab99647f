"""What waits to be written to the journal: bounded in bytes and in bytes per second. Pure.

A command may print faster than any tracker wants to have it. What is too much is dropped and
counted; it never waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Backlog", "Entry"]

Entry = tuple[str, float, dict[str, Any]]
"""Kind, time (Unix seconds), data."""

MAX_WAITING_BYTES = 1024 * 1024
BYTES_PER_SECOND = 256 * 1024
BURST_BYTES = 2 * 1024 * 1024
EVENT_BYTES = 32 * 1024
"""Of lines in one event."""

_LINE_BYTES = 16
"""What a line costs besides its characters."""


class Backlog:
    """Lines and readings on their way. Any thread may use it."""

    def __init__(self, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        """Begin empty.

        Args:
            clock: Monotonic seconds.
            wall_clock: Unix seconds.
        """
        self.dropped = 0
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._bytes = 0
        self._open_bytes = 0
        self._unsaid = 0
        self._tokens = float(BURST_BYTES)
        self._filled_at = clock()

    @property
    def is_full(self) -> bool:
        """More than half of the room is taken."""
        return self._bytes > MAX_WAITING_BYTES // 2

    def add_lines(self, lines: list[str]) -> None:
        """Take lines, in their order."""
        with self._lock:
            self._fill()
            for line in lines:
                size = len(line.encode()) + _LINE_BYTES
                if self._bytes + size > MAX_WAITING_BYTES or size > self._tokens:
                    self.dropped += 1
                    self._unsaid += 1
                    continue
                if self._unsaid:
                    self._append(f"[trainbus: {self._unsaid} lines were left out]", 64)
                    self._unsaid = 0
                self._append(line, size)

    def add_readings(self, values: dict[str, float]) -> None:
        """Take readings of the machine."""
        with self._lock:
            if not self.is_full:
                self._entries.append(("system", self._wall_clock(), {"values": values}))
                self._bytes += 1024
                self._open_bytes = EVENT_BYTES

    def take(self) -> list[Entry]:
        """All that waits, once."""
        with self._lock:
            if self._unsaid:
                self._append(f"[trainbus: {self._unsaid} lines were left out]", 64)
                self._unsaid = 0
            entries, self._entries = self._entries, []
            self._bytes = self._open_bytes = 0
            return entries

    def _append(self, line: str, size: int) -> None:
        self._tokens -= size
        self._bytes += size
        if (
            self._entries
            and self._entries[-1][0] == "console"
            and (self._open_bytes + size <= EVENT_BYTES)
        ):
            self._entries[-1][2]["lines"].append(line)
            self._open_bytes += size
            return
        self._entries.append(("console", self._wall_clock(), {"lines": [line]}))
        self._open_bytes = size

    def _fill(self) -> None:
        now = self._clock()
        gained = (now - self._filled_at) * BYTES_PER_SECOND
        self._tokens = min(BURST_BYTES, self._tokens + gained)
        self._filled_at = now
