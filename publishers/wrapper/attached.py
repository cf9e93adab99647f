"""What goes on beside the command when it was asked for: console lines and system readings.

Whose they are is settled by the first training process of the command that starts a run, since its
code may name run and project itself. Until then lines are held, for a while; a command that starts
no run gets one from the wrapper.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from bus.config import Settings
from bus.errors import EventError, TrainbusError
from bus.kinds import World
from publishers.environment import Place
from publishers.lastwords import EndNote
from publishers.start import start_run
from publishers.wrapper.backlog import Backlog
from publishers.wrapper.channel import Channel, Identity
from publishers.wrapper.child import Child
from publishers.wrapper.lines import Lines
from publishers.wrapper.notes import Journals
from publishers.wrapper.passing import Passing
from publishers.wrapper.readings import Readings

__all__ = ["Attached"]

LOOK_SECONDS = 0.1
"""Between two looks for a run of the command: a short one is stored and gone in a moment."""

WRITE_SECONDS = 0.5
READ_SECONDS = 10.0
"""Between two readings of the machine."""

PATIENCE_SECONDS = 60.0
"""How long the lines wait for a training process to say whose they are."""


class Attached:
    """Console and readings of one command; idle when neither was asked for.

    Attributes:
        outputs: Descriptors for the command, as :class:`publishers.wrapper.child.Child` takes them.
        runs: The ids of the runs that were published to.
    """

    def __init__(
        self,
        settings: Settings,
        place: Place | None,
        journals: Journals,
        *,
        is_console: bool,
        is_system: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.outputs: list[tuple[int, int]] = []
        self.runs: set[str] = set()
        self._settings = settings
        self._place = place
        self._journals = journals
        self._is_wanted = is_console or is_system
        self._readings = Readings() if is_system else None
        self._clock = clock
        self._begun_at = clock()
        self._read_at = clock()
        self._backlog = Backlog(clock, time.time)
        self._channel: Channel | None = None
        self._folders: list[Path] = []
        self._stop = threading.Event()
        self._child: Child | None = None
        self._passing: list[Passing] = []
        self._lines: list[Lines] = []
        self._publishing = threading.Thread(
            target=self._publish, name="trainbus-wrapper", daemon=True
        )
        if is_console:
            self._open_outputs()

    def _open_outputs(self) -> None:
        for fds in _streams():
            lines = Lines()
            with suppress(OSError):
                passing = Passing(fds, partial(self._take, lines))
                self._passing.append(passing)
                self._lines.append(lines)
                self.outputs += passing.outputs

    def _take(self, lines: Lines, data: bytes) -> None:
        whole = lines.feed(data)
        if whole:
            self._backlog.add_lines(whole)

    def abandon(self) -> None:
        """There is no command after all."""
        for passing in self._passing:
            passing.abandon()

    def start(self, child: Child) -> None:
        """The command runs."""
        self._child = child
        for passing in self._passing:
            passing.start()
        if self._is_wanted:
            self._publishing.start()

    def tick(self) -> None:
        """Look after the size of the terminal."""
        changed = [passing.match_window() for passing in self._passing]
        if any(changed) and self._child is not None:
            self._child.send(signal.SIGWINCH)

    def finish(self, note: EndNote, is_enough: Callable[[float], bool]) -> list[Path]:
        """Pass on and write what is left; end the run that has nobody else to end it.

        Args:
            note: How the command ended.
            is_enough: Whether to wait no more, after so many seconds.

        Returns:
            The folders of what was written.
        """
        if not self._is_wanted:
            return []
        for passing in self._passing:
            passing.command_ended()
        while not all(passing.is_done for passing in self._passing):
            if is_enough(0.01):
                break
        for lines in self._lines:
            self._backlog.add_lines(lines.finish())
        self._stop.set()
        self._publishing.join()
        with suppress(OSError, TrainbusError):
            self._finish_run(note)
        return self._folders

    def _finish_run(self, note: EndNote) -> None:
        self._find_channel(is_last=True)
        self._read(is_last=True)
        self._write()
        self._close()
        if self._place is None or self._journals.seen:
            return
        place = self._place
        run = start_run(
            place.project,
            place.name,
            run_id=place.run,
            rank=place.rank,
            world=World(place.nodes, place.ranks),
            node=place.node,
            attempt=place.attempt,
            settings=self._settings,
        )
        run.finish(note.status, note.error, timeout=0.0)
        self.runs.add(place.run)

    def _publish(self) -> None:
        while not self._stop.wait(WRITE_SECONDS if self._journals.seen else LOOK_SECONDS):
            # The disk may be full, or the spool gone: the next round tries again. Whatever else it
            # is, a thread would print it into the output of the command.
            with suppress(Exception):
                self._find_channel()
                self._read()
                self._write()

    def _find_channel(self, *, is_last: bool = False) -> None:
        """Open the journal once it is known, or to be assumed, whose it is."""
        self._journals.look()
        identity = self._of_training()
        if identity is None:
            waited = self._clock() - self._begun_at
            if self._channel is not None or self._place is None:
                return
            if not (is_last or self._backlog.is_full or waited > PATIENCE_SECONDS):
                return
            place = self._place
            identity = Identity(
                place.run, place.project, place.name, place.rank, place.attempt, place.node
            )
        elif self._channel is not None and self._channel.identity.key == identity.key:
            return
        self._close()
        self._channel = Channel(identity, self._settings.spool, os.getpid())
        self._folders.append(self._channel.path)
        self.runs.add(identity.run)

    def _of_training(self) -> Identity | None:
        """Of the first process that has started a run, by rank."""
        found = []
        for header in self._journals.seen:
            with suppress(EventError):
                found.append(Identity.of_journal(header))
        # The first run of the command: a sweep's trainings come one after the other.
        same = [identity for identity in found if identity.key == found[0].key]
        return min(same, key=lambda identity: identity.rank, default=None)

    def _read(self, *, is_last: bool = False) -> None:
        if self._readings is not None and (
            is_last or self._clock() - self._read_at >= READ_SECONDS
        ):
            self._read_at = self._clock()
            self._backlog.add_readings(self._readings.take())

    def _write(self) -> None:
        if self._channel is not None:
            self._channel.write(self._backlog.take())

    def _close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.finish(self._backlog.dropped)


def _streams() -> list[list[int]]:
    """Standard output and error, by the file they are; those that are closed are left alone."""
    found: dict[tuple[int, int], list[int]] = {}
    for fd in (1, 2):
        with suppress(OSError):
            stat = os.fstat(fd)
            found.setdefault((stat.st_dev, stat.st_ino), []).append(fd)
    return list(found.values())
