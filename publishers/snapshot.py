"""Copies files into the spool at the moment they are logged, so that they may change afterwards.

By a reflink where the file system can (it costs no space), else ``copy_file_range``, else a plain
copy. A copy is whole before its record is written. Copies stop while the disk has less free than a
reserve, which is left to the journal.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from bus.errors import ConfigError, JournalError
from publishers.journal.format import BLOBS_NAME
from publishers.journal.writer import cause_of

__all__ = ["BlobRecord", "SnapshotError", "Snapshots", "name_of", "read_reserve", "safe_name"]

_FICLONE = 0x40049409
"""Linux ioctl: share the blocks of a whole file."""

_COPY_BYTES = 64 * 1024 * 1024
_MAX_NAME_CHARACTERS = 100

_SMALLEST_RESERVE = 256 * 1024**2
_LARGEST_RESERVE = 4 * 1024**3

# What only says that this way of copying is not to be had here.
_NOT_HERE = frozenset(
    {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}
)


class SnapshotError(JournalError):
    """A file could not be copied into the spool.

    Attributes:
        cause: The word it is counted under.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class BlobRecord(NamedTuple):
    """A copy, as the journal names it. See :mod:`publishers.journal.format`."""

    path: str
    name: str
    is_folder: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The ``blob`` of a record."""
        return {"path": self.path, "name": self.name, "is_folder": self.is_folder}


def read_reserve(environ: Mapping[str, str]) -> int | None:
    """Bytes to leave free, from ``TRAINBUS_SPOOL_RESERVE``; None for the default.

    Raises:
        ConfigError: It is not a number of bytes.
    """
    text = environ.get("TRAINBUS_SPOOL_RESERVE", "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"TRAINBUS_SPOOL_RESERVE is a number of bytes, not {text!r}")
    return int(text)


def safe_name(text: str) -> str:
    """A file name made of a text: only ``[A-Za-z0-9._-]``, no leading dot, bounded."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip(".")
    return name[-_MAX_NAME_CHARACTERS:].lstrip(".-") or "file"


def name_of(path: str | os.PathLike[str]) -> str:
    """The name of a file or folder, also where the path ends in ``..`` or is ``.``."""
    given = Path(os.fsdecode(path))
    return given.name if given.name not in {"", ".."} else given.resolve().name or "folder"


class Snapshots:
    """The copies of one source. Any thread may use it."""

    def __init__(
        self,
        folder: Path,
        warn: Callable[[str, str], None],
        *,
        reserve_bytes: int | None = None,
        disk_usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage,
    ) -> None:
        """Use ``blobs`` in a source's folder, which is there already.

        Args:
            folder: The source's folder.
            warn: Told, by cause and message, what was left out of a folder.
            reserve_bytes: What has to stay free; by default 5 % of the disk, at least 256 MiB
                and at most 4 GiB.
            disk_usage: As ``shutil.disk_usage``.
        """
        self._blobs = folder / BLOBS_NAME
        self._spool = folder.parent.parent.resolve()
        self._warn = warn
        self._reserve_bytes = reserve_bytes
        self._disk_usage = disk_usage
        self._numbers = count(1)

    def copy(
        self, path: str | os.PathLike[str], name: str | None = None, *, is_frozen: bool = False
    ) -> BlobRecord:
        """Copy a file or a folder as it is now.

        Args:
            path: What to copy. Links to files are followed.
            name: What to call it; by default its own name.
            is_frozen: It never changes again: hard links will do, where the file system can.

        Raises:
            SnapshotError: It is not there, cannot be read, or there is no room.
        """
        source = Path(os.fsdecode(path))
        try:
            mode = source.stat().st_mode
        except OSError as error:
            raise _missing(source, error) from error
        name = name or name_of(source)
        if stat.S_ISDIR(mode):
            if not is_frozen and source.resolve().is_relative_to(self._spool):
                raise SnapshotError("left_out", f"{source} is part of the spool")
            return self._write(
                name, lambda target: self._copy_folder(source, target, is_frozen), True
            )
        if not stat.S_ISREG(mode):
            raise SnapshotError("missing_file", f"{source} is neither a file nor a folder")
        return self._write(name, lambda target: self._take_file(source, target, is_frozen))

    def write(self, name: str, content: bytes | Callable[[Path], None]) -> BlobRecord:
        """Make a file of bytes, or let a function write it to the path it is given.

        Raises:
            SnapshotError: There is no room, or the function failed.
        """
        if not isinstance(content, bytes):
            return self._write(name, content)
        data = content
        return self._write(name, lambda target: _write_bytes(target, data))

    def remove(self, blob: BlobRecord) -> None:
        """Remove a copy that no record names."""
        _remove(self._blobs.parent / blob.path)

    def _write(
        self, name: str, fill: Callable[[Path], None], is_folder: bool = False
    ) -> BlobRecord:
        self._check_room(0)
        path = self._blobs / f"{next(self._numbers):06d}-{safe_name(name)}"
        try:
            fill(path)
        except BaseException as error:
            _remove(path)
            if isinstance(error, OSError) and error.errno is not None:
                raise SnapshotError(cause_of(error), f"cannot copy {name}: {error}") from error
            raise
        return BlobRecord(f"{BLOBS_NAME}/{path.name}", name[:1024], is_folder)

    def _check_room(self, needed: int) -> None:
        usage = self._disk_usage(self._blobs)
        total, free = usage[0], usage[2]
        reserve = self._reserve_bytes
        if reserve is None:
            reserve = min(max(total // 20, _SMALLEST_RESERVE), _LARGEST_RESERVE)
        if free - needed < reserve:
            raise SnapshotError(
                "no_room_for_files",
                f"{free >> 20} MiB free in the spool, {needed >> 20} MiB needed and "
                f"{reserve >> 20} MiB kept for metrics (TRAINBUS_SPOOL_RESERVE): "
                "files are not logged until there is room",
            )

    def _take_file(self, source: Path, target: Path, is_frozen: bool) -> None:
        if not (is_frozen and _link(source, target)):
            self._copy_file(source, target)

    def _copy_file(self, source: Path, target: Path) -> None:
        try:
            reader = source.open("rb", buffering=0)
        except OSError as error:
            raise _missing(source, error) from error
        with reader, target.open("xb", buffering=0) as writer:
            if _clone(reader.fileno(), writer.fileno()):
                return
            self._check_room(os.fstat(reader.fileno()).st_size)
            if not _copy_range(reader.fileno(), writer.fileno()):
                shutil.copyfileobj(reader, writer, 1024 * 1024)

    def _copy_folder(self, source: Path, target: Path, is_frozen: bool) -> None:
        target.mkdir()
        for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
            copy = target / entry.name
            if entry.is_dir(follow_symlinks=False):
                if Path(entry.path).samefile(self._spool):
                    self._warn("left_out", f"{entry.path} is left out: it is the spool itself")
                    continue
                self._copy_folder(Path(entry.path), copy, is_frozen)
            elif entry.is_file():
                self._take_file(Path(entry.path), copy, is_frozen)
            else:
                # A link to a folder may lead back to where it stands.
                self._warn(
                    "left_out",
                    f"{entry.path} is left out: it is a link to a folder or to nothing, or no file",
                )


def _link(source: Path, target: Path) -> bool:
    """Give the file a second name; False where the file system cannot."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno in _NOT_HERE or error.errno == errno.EMLINK:
            return False
        raise
    return True


def _clone(reader: int, writer: int) -> bool:
    """Share the blocks; False where the file system cannot."""
    try:
        fcntl.ioctl(writer, _FICLONE, reader)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return False
        raise
    return True


def _copy_range(reader: int, writer: int) -> bool:
    """Copy within the kernel; False where it cannot, with nothing copied."""
    if not hasattr(os, "copy_file_range"):
        return False
    copied = 0
    try:
        while done := os.copy_file_range(reader, writer, _COPY_BYTES):
            copied += done
    except OSError as error:
        if error.errno in _NOT_HERE and not copied:
            return False
        raise
    # Files made on the fly, as in /proc, have no size and give nothing this way.
    return copied > 0 or os.fstat(reader).st_size > 0


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _missing(path: Path, error: OSError) -> SnapshotError:
    return SnapshotError("missing_file", f"{path} is not logged: {error.strerror or error}")
