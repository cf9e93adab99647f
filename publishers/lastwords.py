"""How a process ended, left in the folder of its source for the shipper that ends its run.

A process that dies, or leaves without saying how, writes no ``run_finished``. Under ``trainbus
run`` two others may know better than the shipper, and each leaves a file beside the journal:

- ``end.command``: ``trainbus run``, once the command has ended: its exit status or signal.
- ``end.process``: the process itself, when its program came to its end and nothing said that it
  failed. Only the exit status, which a program does not see of itself, can tell.

A file is there as a whole or not at all, and is one line, made as those of a segment are.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from bus.errors import JournalError
from bus.kinds import RunStatus
from publishers.journal.format import COMMAND_END_NAME, PROCESS_END_NAME, check_line, make_line

__all__ = ["EndNote", "leave_note", "read_note", "read_notes"]

_MAX_BYTES = 64 * 1024


class EndNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one of them knows.

    Attributes:
        status: How it ended.
        error: What went wrong, in words.
        time: When, Unix seconds.
        dropped: Per cause, what the process lost; None when who writes does not know.
        rank: Whom the end is about in the life of the run, where that is not the source's rank.
        pid: The command's own process: its exit status is that of no other.
    """

    status: RunStatus
    error: str = ""
    time: float = 0.0
    dropped: dict[str, int] | None = None
    rank: int | None = None
    pid: int = 0


_decoder = msgspec.json.Decoder(EndNote)


def leave_note(folder: Path, name: str, note: EndNote) -> None:
    """Write a note into the folder of a source; synced when this returns.

    Args:
        folder: Of the source.
        name: ``COMMAND_END_NAME`` or ``PROCESS_END_NAME``.
        note: What to say.

    Raises:
        OSError: It cannot be written.
    """
    # Two commands may know of one source: each has a file of its own until it is whole.
    new = folder / f".{name}.{os.getpid()}"
    try:
        with new.open("wb") as file:
            file.write(make_line(msgspec.json.encode(note)))
            file.flush()
            os.fsync(file.fileno())
        new.rename(folder / name)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def read_note(folder: Path, name: str) -> EndNote | None:
    """A note in the folder of a source; None when there is none.

    Raises:
        JournalError: It is damaged.
        OSError: It cannot be read.
    """
    try:
        fd = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        line = os.read(fd, _MAX_BYTES)
    finally:
        os.close(fd)
    payload = check_line(line.removesuffix(b"\n"))
    try:
        if payload is not None:
            return _decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise JournalError(f"{folder / name} is no note: {error}") from error
    raise JournalError(f"{folder / name} is damaged")


def read_notes(folder: Path) -> tuple[EndNote | None, EndNote | None]:
    """What the command and the process left; a note that cannot be read counts as none."""

    def read(name: str) -> EndNote | None:
        try:
            return read_note(folder, name)
        except (OSError, JournalError):
            return None

    return read(COMMAND_END_NAME), read(PROCESS_END_NAME)
