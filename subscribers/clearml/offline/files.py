"""Files that survive a kill: written whole under another name and renamed, or appended and synced.

Every function blocks, and raises OSError as the system does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from subscribers.clearml.offline.layout import PART

__all__ = ["append_lines", "make_folder", "replace_file", "replace_with"]


def make_folder(folder: Path, root: Path) -> None:
    """Make a folder below ``root``, which is there, so that it stays."""
    if folder == root or folder.is_dir():
        return
    make_folder(folder.parent, root)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole, or leave the one that is there."""

    def write(part: Path) -> None:
        part.write_bytes(content)

    replace_with(path, write)


def replace_with(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file beside ``path``, sync it, and put it in its place."""
    part = path.with_name(path.name + PART)
    try:
        write(part)
        _sync(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def append_lines(path: Path, start: int, lines: Iterable[bytes]) -> int:
    """Write lines from ``start`` on, cut off what was there beyond, and sync.

    Args:
        path: The file; made when ``start`` is 0.
        start: Bytes of it that are to stay.
        lines: May be none; then the file is only cut.

    Returns:
        The size of the file.
    """
    iterator = iter(lines)
    first = next(iterator, None)
    size = path.stat().st_size if path.exists() else None
    if first is None and size == start:
        return start
    with path.open("w+b" if size is None else "r+b") as file:
        file.truncate(start)
        file.seek(start)
        try:
            if first is not None:
                file.write(first)
            file.writelines(iterator)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            # What was written of a line is of no use, and the disk may be full.
            os.ftruncate(file.fileno(), start)
            raise
        written = file.tell()
    if size is None:
        _sync(path.parent)
    return written


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
