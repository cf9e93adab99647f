"""Whether a run was asked to stop, as its training processes see it.

The shipper leaves a note in the folder of each source that is meant
(:mod:`publishers.shipper.stopnotes`). The note goes with the folder: a training that is started
again has a folder of its own, and does not see it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from bus.control import StopNotice, decode_control
from bus.errors import EventError, JournalError
from publishers.drops import Drops
from publishers.journal.format import STOP_NAME, check_line

__all__ = ["LOOK_SECONDS", "StopSign", "read_note"]

LOOK_SECONDS = 0.5
"""How often a process looks for the note at the most."""

MAX_NOTE_BYTES = 64 * 1024
"""A note names no sources: it is far smaller."""


def read_note(folder: Path) -> StopNotice | None:
    """The note in the folder of a source; None when there is none.

    Raises:
        JournalError: It is damaged.
        OSError: It cannot be read.
    """
    try:
        fd = os.open(folder / STOP_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        line = os.read(fd, MAX_NOTE_BYTES)
    finally:
        os.close(fd)
    payload = check_line(line.removesuffix(b"\n"))
    if payload is None:
        raise JournalError(f"{folder / STOP_NAME} is damaged")
    try:
        return decode_control(payload)
    except EventError as error:
        raise JournalError(f"{folder / STOP_NAME} is no notice: {error}") from error


class StopSign:
    """Looks for the note of one source from time to time. Any thread may use it.

    Without a lock: at worst two threads look at once, and see the same.
    """

    def __init__(
        self, folder: Path | None, drops: Drops, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin without a look.

        Args:
            folder: Of the source; None when there is no spool, so that nobody can ask.
            drops: Warned of a note that cannot be read.
            clock: Monotonic seconds.
        """
        self._folder = folder
        self._drops = drops
        self._clock = clock
        self._look_at = float("inf") if folder is None else float("-inf")
        self._notice: StopNotice | None = None

    @property
    def notice(self) -> StopNotice | None:
        """What was asked; None as long as nobody did. Once there it stays. Never raises."""
        if self._notice is None and self._clock() >= self._look_at:
            self._look()
        return self._notice

    def _look(self) -> None:
        if self._folder is None:
            return
        self._look_at = self._clock() + LOOK_SECONDS
        try:
            # Not over what another thread has found meanwhile.
            self._notice = read_note(self._folder) or self._notice
        except (OSError, JournalError) as error:
            self._drops.warn(
                "stop_note", f"not known whether the run was asked to stop: {error}; going on"
            )
