"""Makes the folder of a source in a spool, so that no reader ever sees it without its lock."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from publishers.journal.format import BLOBS_NAME, LOCK_NAME, SOURCES_NAME

__all__ = ["SourceFolder", "make_source_folder"]

_NEW_PREFIX = ".new-"
_STALE_SECONDS = 3600.0


@dataclass(slots=True)
class SourceFolder:
    """The folder of a source, locked by this process until :meth:`unlock`.

    The lock file must not be opened anywhere else in this process: closing any descriptor of it
    would free the lock. A forked child holds no lock, and frees none.
    """

    path: Path
    lock_fd: int

    @property
    def blobs(self) -> Path:
        """Where snapshots of files wait for their upload."""
        return self.path / BLOBS_NAME

    def unlock(self) -> None:
        """Say that this process will not write any more."""
        if self.lock_fd >= 0:
            fd, self.lock_fd = self.lock_fd, -1
            os.close(fd)


def make_source_folder(
    spool: Path, rank: int, incarnation: str, clock: Callable[[], float] = time.time
) -> SourceFolder:
    """Make ``sources/{rank}-{incarnation}`` with its lock held.

    It is made and locked under another name first: a folder in ``sources`` whose lock is free
    belongs to a process that has ended.

    Raises:
        OSError: The spool cannot be written.
    """
    name = f"{rank}-{incarnation}"
    sources = spool / SOURCES_NAME
    sources.mkdir(parents=True, exist_ok=True)
    _remove_stale(spool, clock())
    new = spool / f"{_NEW_PREFIX}{name}"
    (new / BLOBS_NAME).mkdir(parents=True)
    lock_fd = -1
    try:
        lock_fd = os.open(new / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.lockf(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(sources / name)
    except BaseException:
        if lock_fd >= 0:
            os.close(lock_fd)
        shutil.rmtree(new, ignore_errors=True)
        raise
    return SourceFolder(sources / name, lock_fd)


def _remove_stale(spool: Path, now: float) -> None:
    """Remove what processes left behind that were killed while they made their folder."""
    for path in spool.glob(f"{_NEW_PREFIX}*"):
        try:
            is_stale = now - path.stat().st_mtime > _STALE_SECONDS
        except OSError:
            continue
        if is_stale:
            shutil.rmtree(path, ignore_errors=True)
