"""What never reached the bus: counted per cause, and said once.

Training must not be interrupted, and not be flooded with messages either. Each cause is warned
about once (or once per name it concerns) through the logger ``trainbus``, which Python shows on
stderr unless the program configures it otherwise.
"""

from __future__ import annotations

from contextlib import suppress
from threading import RLock

__all__ = ["Drops"]

_MAX_REMEMBERED = 1000
"""Warnings beyond this many names are not shown: their set must not grow without end."""


class Drops:
    """Counters by cause, and the memory of what was warned about. Any thread may use it."""

    def __init__(self) -> None:
        # Reentrant: a signal handler may log in the middle of an update.
        self._lock = RLock()
        self._counts: dict[str, int] = {}
        self._warned: set[tuple[str, str]] = set()

    def add(self, cause: str, message: str, *, about: str = "", count: int = 1) -> None:
        """Count something as dropped, and warn unless this cause was warned about before.

        Args:
            cause: One word for the counter, such as ``disk_full``.
            message: One line: what happened and the way out.
            about: The name it concerns, where each name deserves its own warning.
            count: How many were dropped.
        """
        with self._lock:
            self._counts[cause] = self._counts.get(cause, 0) + count
        self.warn(cause, message, about=about)

    def warn(self, cause: str, message: str, *, about: str = "") -> None:
        """Warn unless it was done before; nothing is counted."""
        with self._lock:
            if (cause, about) in self._warned or len(self._warned) >= _MAX_REMEMBERED:
                return
            self._warned.add((cause, about))
        # Imported late: most runs never warn. Outside the lock: a log handler may log metrics.
        import logging

        # A handler of the program's own may raise.
        with suppress(Exception):
            logging.getLogger("trainbus").warning("trainbus: %s", message)

    def counts(self) -> dict[str, int]:
        """How many were dropped so far, by cause."""
        with self._lock:
            return dict(self._counts)

    def total(self) -> int:
        """How many were dropped so far."""
        with self._lock:
            return sum(self._counts.values())

    def reset_after_fork(self) -> None:
        """Make the copy in a forked child usable: another thread may have held the lock."""
        self._lock = RLock()
