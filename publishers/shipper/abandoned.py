"""Journals whose process has died: how that is seen, and how they are ended."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import orjson

from bus.source import Source
from publishers.journal.format import LOCK_NAME, make_line

__all__ = ["is_abandoned", "write_end"]


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


def write_end(segment: Path, name: Source, wall_time: float) -> None:
    """Write the end of the run into the last segment of a journal that was left without one.

    Raises:
        OSError: It cannot be written, or only in part; then it may be called again.
    """
    record = {
        "kind": "run_finished",
        # When it was left: this may be days later.
        "time": min(segment.stat().st_mtime, wall_time),
        "data": {
            "status": "killed",
            "error": "the process ended without finishing its run",
            "rank": name.rank,
            "attempt": name.attempt,
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
