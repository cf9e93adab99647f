"""The demo's folder: fresh for each run, and never one that holds something else."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bus.errors import ConfigError

__all__ = ["LOCK_NAME", "fresh_folder"]

LOCK_NAME = "demo.lock"
"""Held while a demo runs; its presence says that the folder is a demo's and may be emptied."""


@contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """Empty the folder of an earlier demo, or make it, and hold it.

    Raises:
        ConfigError: A demo runs there, the folder holds something else, or cannot be written.
    """
    folder = folder.expanduser().absolute()
    lock = _lock(folder)
    try:
        _empty(folder)
        yield folder
    finally:
        os.close(lock)


def _lock(folder: Path) -> int:
    """Make the folder and hold it; gives the descriptor of the lock."""
    lock_file = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not lock_file.exists() and any(folder.iterdir()):
            raise ConfigError(
                f"{folder} is not empty and no demo made it: choose another with --folder"
            )
        lock = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ConfigError(f"a demo runs in {folder}: choose another with --folder") from error
    except OSError as error:
        raise ConfigError(f"folder {folder}: {error.strerror or error}") from error
    return lock


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name == LOCK_NAME:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
