"""How a process's part of a run ends: the last record, the lock let go, the wait for storage."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import RLock
from typing import Any, get_args

from bus.kinds import RunStatus
from publishers import exits
from publishers.drops import Drops
from publishers.environment import Place
from publishers.journal.folder import SourceFolder
from publishers.journal.format import PROCESS_END_NAME
from publishers.journal.rows import MetricRows
from publishers.journal.writer import Journal, NoJournal
from publishers.lastwords import EndNote, leave_note
from publishers.launch import ShipperWatch
from publishers.recorder import Recorder
from publishers.values import plain

__all__ = ["Ending"]

_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.1
_RETRY_SECONDS = 0.5
"""How often the last record is tried again while the disk takes nothing."""

_MAX_ERROR_CHARACTERS = 10_000


class Ending:
    """Ends one run in this process. Any thread may use it."""

    def __init__(
        self,
        place: Place,
        journal: Journal,
        folder: SourceFolder | None,
        *,
        rows: MetricRows,
        recorder: Recorder,
        drops: Drops,
        watch: ShipperWatch | None,
        is_wrapped: bool = False,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with the run open.

        Args:
            place: Who this process is.
            journal: To be closed.
            folder: The journal's; None when there is no spool.
            rows: To be stopped.
            recorder: To be stopped, and to write the last record before.
            drops: What the last record reports.
            watch: Keeps a shipper running; None when nobody is to.
            is_wrapped: ``trainbus run`` will say how the process ended.
            sleep: Waits, in seconds.
            clock: Monotonic seconds.
        """
        self._place = place
        self._journal = journal
        self._folder = folder
        self._rows = rows
        self._recorder = recorder
        self._drops = drops
        self._watch = watch
        self._is_wrapped = is_wrapped
        self._sleep = sleep
        self._clock = clock
        self._lock = RLock()
        self._last: dict[str, Any] | None = None
        self._is_closed = folder is None
        self._is_inert = False
        self._was_removed = False
        self._is_left = False

    def end_with_program(self, status: str, error: str) -> None:
        """End at the end of the program, when nobody has called ``finish``.

        Under ``trainbus run`` a program that seems to have done well leaves a note in the place of
        the last record, for the shipper to compare with the exit status.
        """
        with self._lock:
            if self._is_inert or self._last is not None:
                return
            if self._is_wrapped and status == "completed" and self._leave():
                return
        self.end(status, error)

    def _leave(self) -> bool:
        if self._folder is None:
            return False
        note = EndNote("completed", time=time.time(), dropped=self._drops.counts())
        try:
            leave_note(self._folder.path, PROCESS_END_NAME, note)
        except OSError:
            return False
        self._is_left = True
        self._last = {}
        self._refuse("after_finish", f"run {self._place.run} has finished: nothing more is taken")
        self._close()
        return True

    def end(self, status: str, error: str) -> None:
        """Write the end of the run, without waiting. Later calls change nothing."""
        with self._lock:
            if self._is_inert or self._last is not None:
                return
            if status not in get_args(RunStatus):
                self._drops.warn("status", f"status {status!r} is unknown: taken as failed")
                status = "failed"
            if self._folder is None:
                exits.forget(self)
            self._last = {
                "status": status,
                "error": str(plain(str(error)))[:_MAX_ERROR_CHARACTERS],
                "dropped": self._drops.counts(),
                "rank": self._place.rank,
                "attempt": self._place.attempt,
            }
            self._refuse(
                "after_finish", f"run {self._place.run} has finished: nothing more is taken"
            )
            self._write_last()

    def wait(self, timeout: float) -> bool:
        """Wait until all is stored, for at most ``timeout`` seconds; says whether it is."""
        if self._folder is None or self._is_inert:
            return False
        if self._watch is not None:
            self._watch.check()
        if self._is_left:
            # The shipper waits for the word of who waits for this process.
            return False
        deadline = self._clock() + timeout
        retry_at = self._clock() + _RETRY_SECONDS
        pause = _FIRST_PAUSE_SECONDS
        while not (is_stored := self._is_gone()):
            left = deadline - self._clock()
            if left <= 0:
                break
            self._sleep(min(pause, left))
            pause = min(1.5 * pause, _LONGEST_PAUSE_SECONDS)
            if self._clock() >= retry_at:
                self._write_last()
                retry_at = self._clock() + _RETRY_SECONDS
        self._close()
        if self._watch is not None:
            self._watch.stop()
        # Who does not wait expects no answer.
        if not is_stored and timeout > 0:
            self._drops.warn(
                "not_confirmed",
                f"run {self._place.run}: not everything is confirmed as stored yet; "
                "the shipper goes on",
            )
        return is_stored and not self._was_removed

    def become_inert(self) -> None:
        """Write nothing any more: this is a copy in a forked child."""
        self._is_inert = True
        self._lock = RLock()
        self._drops.reset_after_fork()
        self._rows.reset_after_fork()
        self._refuse("forked", "a forked process does not write to the run of its parent")

    def _write_last(self) -> None:
        """Write the last record and close; when the disk takes nothing, leave it for later."""
        with self._lock:
            if self._is_closed or self._last is None:
                return
            if self._recorder.record("run_finished", self._last):
                self._close()

    def _close(self) -> None:
        with self._lock:
            if self._is_closed or self._folder is None:
                return
            self._is_closed = True
            exits.forget(self)
            # The shipper leaves the folder of a process that lives alone.
            self._was_removed = self._is_gone()
            if self._was_removed:
                self._drops.warn(
                    "removed", f"{self._folder.path} was removed: run {self._place.run} is lost"
                )
            self._journal.close()
            self._folder.unlock()

    def _refuse(self, cause: str, message: str) -> None:
        self._recorder.refuse(cause, message)
        self._rows.journal = NoJournal(lambda: self._drops.add(cause, message))

    def _is_gone(self) -> bool:
        """The shipper removes the folder of a source once all of it is stored."""
        if self._folder is None:
            return False
        try:
            self._folder.path.stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return False
