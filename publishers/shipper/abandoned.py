"""Journals whose process has died: how that is seen, and how they are ended."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import orjson

from bus.source import Source
from publishers.journal.format import LOCK_NAME, SegmentHeader, make_line
from publishers.lastwords import EndNote, read_notes

__all__ = ["NOTE_PATIENCE_SECONDS", "LastWords", "is_abandoned", "write_end"]

NOTE_PATIENCE_SECONDS = 10.0
"""How long the end of a process under ``trainbus run`` waits for what that knows of it. A command
ends at once with its only process; torchrun first stops the ranks that are left."""

_UNKNOWN = EndNote("killed", "the process ended without finishing its run")


def is_abandoned(folder: Path) -> bool:
    """No process holds the lock of a source: its trainer is gone.

    Raises:
        OSError: The lock cannot be opened.
    """
    try:
        fd = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


class LastWords:
    """Decides how the run of a process that has died ended, from the notes beside its journal."""

    def __init__(self, folder: Path, header: SegmentHeader) -> None:
        """Begin with a process that has just been found dead, or has not died yet.

        Args:
            folder: Of the source.
            header: Whether it ran under ``trainbus run``.
        """
        self._folder = folder
        self._is_wrapped = bool(header.wrapper)
        self._pid = header.pid
        self._since: float | None = None

    def find(self, wall_time: float) -> EndNote | None:
        """How it ended; None as long as a note may still come. To be asked again and again."""
        command, process = read_notes(self._folder)
        if self._since is None:
            self._since = wall_time
        # Clocks of machines are set: neither way may it take longer.
        is_over = abs(wall_time - self._since) >= NOTE_PATIENCE_SECONDS
        if command is None and self._is_wrapped and not is_over:
            return None
        return _judge(command, process, self._pid)


def _judge(command: EndNote | None, process: EndNote | None, pid: int) -> EndNote:
    if process is None:
        # A script may do well although one of its processes was killed.
        is_of_other = command is not None and command.status == "completed" and command.pid != pid
        return _UNKNOWN if command is None or is_of_other else command
    if command is None or command.status == "completed":
        return process
    return EndNote(command.status, command.error, process.time, process.dropped)


def write_end(segment: Path, name: Source, wall_time: float, words: EndNote = _UNKNOWN) -> None:
    """Write the end of the run into the last segment of a journal that was left without one.

    Raises:
        OSError: It cannot be written, or only in part; then it may be called again.
    """
    record = {
        "kind": "run_finished",
        # When it was left: this may be days later.
        "time": min(max(segment.stat().st_mtime, words.time), wall_time),
        "data": {
            "status": words.status,
            "error": words.error,
            "rank": name.rank if words.rank is None else words.rank,
            "attempt": name.attempt,
            **({} if words.dropped is None else {"dropped": words.dropped}),
        },
    }
    line = make_line(orjson.dumps(record))
    # Not for appending: it needs to look at the end first.
    with segment.open("r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
            line = b"\n" + line
        written = file.write(line)
    if written != len(line):
        raise OSError(f"only a part of the end of the run could be written to {segment}")
