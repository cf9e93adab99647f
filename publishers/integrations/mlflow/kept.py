"""Copies of what was logged, so that this process can read it again.

``load_model`` right after ``log_model`` does so, and whoever compares with an earlier plot.

The copies are made first and the bus gets hard links of them, so that nothing is copied twice. They
are in ``kept`` in the spool, which the shipper leaves alone, and go when the process ends, or by
the next one's hand where it was killed. Beyond a budget the oldest go.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from publishers.journal.format import BLOBS_NAME
from publishers.snapshot import SnapshotError, Snapshots

__all__ = ["DEFAULT_BUDGET_BYTES", "GoneError", "Kept"]

logger = logging.getLogger(__name__)

DEFAULT_BUDGET_BYTES = 1024**3
_LOCK = "lock"


class GoneError(LookupError):
    """It was logged, and its copy is not there any more."""


class _Copy(NamedTuple):
    """One file or folder that was logged.

    Attributes:
        files: Of whom, and under which paths.
        size: Bytes.
    """

    owner: str
    files: list[str]
    path: Path
    size: int


class Kept:
    """The copies of one process. Not thread-safe, but for reading what is listed."""

    def __init__(
        self,
        spool: Path,
        budget_bytes: int = DEFAULT_BUDGET_BYTES,
        reserve_bytes: int | None = None,
    ) -> None:
        """Begin without touching the disk.

        Args:
            spool: The spool of this process's runs.
            budget_bytes: What the copies may take once the bus has them too; 0 keeps none then.
            reserve_bytes: See :class:`publishers.snapshot.Snapshots`.
        """
        self._reserve = reserve_bytes
        self._root = spool / "kept"
        self._budget = budget_bytes
        self._at = self._root / f"{os.getpid()}-{os.urandom(4).hex()}"
        self._lock_fd = -1
        self._pid = os.getpid()
        self._snapshots: Snapshots | None = None
        self._copies: list[_Copy] = []
        self._index: dict[str, dict[str, Path | None]] = {}
        self._needed: set[Path] = set()

    def add(self, owner: str, path: str, source: Path) -> Path | None:
        """Copy a file or folder as it is now. Whatever the budget, it stays until :meth:`release`.

        Args:
            owner: Whose it is.
            path: Where it stands there; empty for a folder that is all of it.
            source: What to copy.

        Returns:
            The copy, which never changes; None when there is none to be had: the source has to do.
        """
        names = _files_of(source, path)
        entries = self._index.setdefault(owner, {})
        size = sum(size for _, size in names)
        copy = self._copy(source)
        for name, _ in names:
            below = name.removeprefix(path).lstrip("/")
            entries.pop(name, None)
            entries[name] = copy and (copy / below if below else copy)
        if copy is not None:
            self._copies.append(_Copy(owner, [name for name, _ in names], copy, size))
            self._needed.add(copy)
        return copy

    def release(self, owner: str, copies: Iterable[Path] | None = None) -> None:
        """Say that copies may go now: the bus has them.

        Args:
            owner: Whose they are.
            copies: As :meth:`add` gave them; by default all of the owner.
        """
        if copies is None:
            copies = [copy.path for copy in self._copies if copy.owner == owner]
        self._needed.difference_update(copies)
        self._make_room()

    def files(self, owner: str) -> dict[str, Path | None]:
        """All files that an owner has logged, by path; None where the copy is gone."""
        return dict(self._index.get(owner, {}))

    def folder(self, owner: str) -> Path | None:
        """A folder with all that an owner has logged; None where any of it is gone."""
        files = self._index.get(owner)
        copies = [copy for copy in self._copies if copy.owner == owner]
        if not files or not copies or None in files.values():
            return None
        if len(copies) == 1 and files.keys() == {
            str(file.relative_to(copies[0].path)) for file in files.values() if file is not None
        }:
            return copies[0].path
        whole = self._at / "copies" / f"whole-{os.urandom(4).hex()}" / copies[0].path.name
        try:
            for name, file in files.items():
                (whole / name).parent.mkdir(parents=True, exist_ok=True)
                (whole / name).hardlink_to(str(file))
        except OSError as error:
            logger.debug("%s cannot be put together: %s", owner, error)
            shutil.rmtree(whole, ignore_errors=True)
            return None
        self._copies.append(_Copy(owner, [], whole, 0))
        return whole

    def find(self, owner: str, path: str) -> Path:
        """The copy of one file.

        Raises:
            KeyError: No such file was logged.
            GoneError: Its copy is not there any more.
        """
        found = self._index.get(owner, {})[path]
        if found is None or not found.exists():
            raise GoneError(path)
        return found

    def close(self) -> None:
        """Remove all copies."""
        is_there, self._snapshots = self._snapshots is not None, None
        self._copies.clear()
        if is_there and os.getpid() == self._pid:
            shutil.rmtree(self._at, ignore_errors=True)
            os.close(self._lock_fd)

    def _copy(self, source: Path) -> Path | None:
        try:
            snapshots = self._snapshots or self._open()
            blob = snapshots.copy(source)
            copied = self._at / blob.path
            # In a folder of its own it keeps its name.
            copy = self._at / "copies" / copied.name.partition("-")[0] / blob.name
            copy.parent.mkdir(parents=True)
            return copied.rename(copy)
        except (OSError, SnapshotError) as error:
            logger.debug("%s is not kept: %s", source, error)
            return None

    def _make_room(self) -> None:
        total = sum(copy.size for copy in self._copies)
        for copy in list(self._copies):
            if total <= self._budget:
                return
            if copy.path in self._needed:
                continue
            self._copies.remove(copy)
            total -= copy.size
            entries = self._index[copy.owner]
            for name in copy.files:
                kept = entries.get(name)
                if kept is not None and (kept == copy.path or copy.path in kept.parents):
                    entries[name] = None
            shutil.rmtree(copy.path.parent, ignore_errors=True)

    def _open(self) -> Snapshots:
        self._root.mkdir(parents=True, exist_ok=True)
        self._sweep()
        (self._at / BLOBS_NAME).mkdir(parents=True)
        self._lock_fd = os.open(self._at / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Children that are forked hold it too, and may still read what is here.
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._snapshots = Snapshots(
            self._at,
            lambda cause, text: logger.warning("%s", text),
            reserve_bytes=self._reserve,
        )
        return self._snapshots

    def _sweep(self) -> None:
        """Remove what processes left behind that were killed."""
        for folder in self._root.iterdir():
            with suppress(OSError):
                fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(fd)


def _files_of(source: Path, path: str) -> list[tuple[str, int]]:
    """The paths of all files, with their sizes; nothing where the source cannot be read."""
    return list(_walk(source, path)) if source.is_dir() else _one(source, path)


def _one(source: Path, path: str) -> list[tuple[str, int]]:
    try:
        return [(path, source.stat().st_size)]
    except OSError:
        return []


def _walk(source: Path, path: str) -> Iterator[tuple[str, int]]:
    with suppress(OSError):
        for entry in sorted(source.iterdir()):
            below = f"{path}/{entry.name}" if path else entry.name
            if entry.is_dir() and not entry.is_symlink():
                yield from _walk(entry, below)
            elif entry.is_file():
                yield from _one(entry, below)
