"""Finds the sources of a spool, and says once what is wrong with those that cannot be shipped."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from bus.errors import JournalError
from publishers.journal.format import SOURCES_NAME
from publishers.shipper.abandoned import is_abandoned
from publishers.shipper.source import JournalSource

__all__ = ["Discovery", "SayOnce"]

logger = logging.getLogger(__name__)

REMEMBERED_WARNINGS = 1000


class SayOnce:
    """Warnings about what is tried again many times a second."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, text: str) -> None:
        """Warn, unless the same has been said."""
        if text not in self._said and len(self._said) < REMEMBERED_WARNINGS:
            self._said.add(text)
            logger.warning("%s", text)


class Discovery:
    """The folders of one spool. Blocking; made for a thread."""

    def __init__(self, spool: Path, say_once: SayOnce) -> None:
        self._folder = spool / SOURCES_NAME
        self._say_once = say_once
        self._refused: set[str] = set()
        self._has_cleaned = False

    def refuse(self, name: str) -> None:
        """Do not give this source again."""
        self._refused.add(name)

    def find(self, known: Collection[str]) -> tuple[dict[str, JournalSource], set[str]]:
        """Look again.

        Returns:
            Sources that are not known yet, and the known ones whose folder is gone.
        """
        try:
            names = sorted(path.name for path in self._folder.iterdir())
        except OSError:
            return {}, set()
        if not self._has_cleaned:
            self._has_cleaned = True
            # What a shipper left that was killed while it removed a folder.
            for name in names:
                if name.startswith(".") and name.endswith(".done"):
                    shutil.rmtree(self._folder / name, ignore_errors=True)
        names = [name for name in names if name[0] != "."]
        opened = {
            name: source
            for name in names
            if name not in known
            and name not in self._refused
            and (source := self._open(self._folder / name)) is not None
        }
        return opened, set(known).difference(names)

    def _open(self, folder: Path) -> JournalSource | None:
        try:
            return JournalSource(folder)
        except JournalError as error:
            self._note(folder, error)
        except OSError as error:
            self._say_once(f"cannot open {folder}, will retry: {error}")
        return None

    def _note(self, folder: Path, error: JournalError) -> None:
        # A trainer that has just begun has no segment yet; one that is gone never will.
        try:
            is_hopeless = is_abandoned(folder)
        except OSError:
            is_hopeless = False
        if is_hopeless:
            self.refuse(folder.name)
            logger.error("cannot ship %s: %s", folder, error)
