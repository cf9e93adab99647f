"""Notes for training processes whose run was asked to stop: heard, written, confirmed.

A note is a file in the folder of the source that is meant. It is there as a whole or not at all: it
is written and synced under another name, which is changed last. What cannot be written is tried
again. The heartbeat names the sources that hold a note, and who asked goes on until it hears that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from bus.control import StopNotice
from bus.errors import JournalError
from publishers.journal.format import STOP_NAME, make_line
from publishers.shipper.discovery import SayOnce
from publishers.shipper.source import JournalSource
from publishers.stopping import read_note

__all__ = ["StopNotes", "write_note"]

logger = logging.getLogger(__name__)

MAX_HEARD = 1000
"""Notices kept until they are carried out, a quarter of a second at the most; the newest stay."""

CONFIRM_SECONDS = 5.0
"""So long a note is confirmed after its source has gone: a training may stop, and all of it be
stored, between two heartbeats."""

_NEW_NAME = ".stop.new"


def write_note(folder: Path, notice: StopNotice) -> None:
    """Leave a note in the folder of a source; synced when this returns.

    Raises:
        OSError: It cannot be written.
    """
    # Who else is meant is nothing to the reader.
    line = make_line(msgspec.json.encode(msgspec.structs.replace(notice, sources=())))
    new = folder / _NEW_NAME
    with new.open("wb") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    new.rename(folder / STOP_NAME)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class StopNotes:
    """The notes of one spool. To be used on the event loop; the disk is left to a thread."""

    def __init__(self, say_once: SayOnce, clock: Callable[[], float]) -> None:
        self._say_once = say_once
        self._clock = clock
        self._gone: dict[str, float] = {}
        self._heard: deque[tuple[str, str, StopNotice]] = deque(maxlen=MAX_HEARD)
        self._waiting: dict[str, StopNotice] = {}
        self._has_note: dict[str, bool] = {}

    @property
    def noted(self) -> list[str]:
        """The sources that hold a note, or did until a moment ago."""
        held = [source for source, has_note in self._has_note.items() if has_note]
        return held + list(self._gone)

    def hear(self, project: str, run: str, notice: StopNotice) -> None:
        """Take a notice; :meth:`carry_out` does what it asks for."""
        self._heard.append((project, run, notice))

    async def carry_out(self, journals: Iterable[JournalSource]) -> None:
        """Write the notes for all that was heard.

        Args:
            journals: All that are served now.
        """
        served = {journal.header.source: journal for journal in journals}
        now = self._clock()
        self._gone = {name: at for name, at in self._gone.items() if now - at < CONFIRM_SECONDS}
        for name in self._has_note.keys() - served.keys():
            self._waiting.pop(name, None)
            if self._has_note.pop(name):
                self._gone[name] = now
        new = {name: served[name].folder for name in served.keys() - self._has_note.keys()}
        if new:
            # An earlier shipper may have left notes.
            self._has_note |= await asyncio.to_thread(self._look, new)
        while self._heard:
            self._address(*self._heard.popleft(), served)
        if self._waiting:
            writing = [(served[name], notice) for name, notice in self._waiting.items()]
            written = await asyncio.gather(
                *(asyncio.to_thread(self._write, *each) for each in writing)
            )
            for name, is_written in zip(list(self._waiting), written, strict=True):
                if is_written:
                    self._has_note[name] = True
                    del self._waiting[name]

    def _address(
        self, project: str, run: str, notice: StopNotice, served: Mapping[str, JournalSource]
    ) -> None:
        """Decide whom a notice is for. The first one counts."""
        for name in notice.sources or served:
            journal = served.get(name)
            # Who may stop a run is granted by topic.
            if journal is None or (journal.header.project, journal.run) != (project, run):
                continue
            if not self._has_note[name]:
                self._waiting.setdefault(name, notice)

    def _look(self, folders: Mapping[str, Path]) -> dict[str, bool]:
        return {name: self._has(folder) for name, folder in folders.items()}

    def _has(self, folder: Path) -> bool:
        try:
            return read_note(folder) is not None
        except (OSError, JournalError) as error:
            # Who asked goes on asking, and it is written anew.
            self._say_once(f"a note that a run is to stop is not counted: {error}")
            return False

    def _write(self, journal: JournalSource, notice: StopNotice) -> bool:
        try:
            write_note(journal.folder, notice)
        except OSError as error:
            self._say_once(
                f"run {journal.run}: it is to stop, which {journal.folder} cannot be told, "
                f"will retry: {error}"
            )
            with contextlib.suppress(OSError):
                (journal.folder / _NEW_NAME).unlink()
            return False
        logger.warning("run %s: asked to stop by %s: %s", journal.run, notice.by, notice.reason)
        return True
