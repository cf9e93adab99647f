"""What happens to runs when the process ends or forks, and nobody calls ``finish``.

At the end of the program a run that was left open is finished: as failed when an uncaught
exception passed ``sys.excepthook``, as killed when that was Ctrl-C, else as completed: unless
``trainbus run`` is there to tell by the exit status, which a program does not see of itself.
Signals are left alone: a process killed by one is reported by the shipper. In a forked child a run
is inert.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from types import TracebackType
from typing import Protocol

__all__ = ["Open", "describe_exception", "forget", "open_runs", "status_of_exception", "watch_over"]

_TIMEOUT_SECONDS = 10.0


class Open(Protocol):
    """A run that has not finished."""

    def end(self, status: str, error: str) -> None:
        """Write the end of the run, without waiting."""

    def end_with_program(self, status: str, error: str) -> None:
        """The same at the end of the program, where somebody else may know better."""

    def wait(self, timeout: float) -> bool:
        """Wait until all is stored, for at most ``timeout`` seconds."""

    def become_inert(self) -> None:
        """Write nothing any more: this is a copy in a forked child."""


_open: dict[int, Open] = {}
_end_of_program: list[tuple[str, str]] = []
_is_installed = False


def watch_over(run: Open) -> None:
    """Finish a run at the end of the program, unless it is forgotten before."""
    global _is_installed
    if not _is_installed:
        _is_installed = True
        _install()
    _open[id(run)] = run


def forget(run: Open) -> None:
    """Leave a run alone from now on: it has finished."""
    _open.pop(id(run), None)


def open_runs() -> list[Open]:
    """The runs of this process that have not finished."""
    return list(_open.values())


def status_of_exception(error: BaseException | None) -> str:
    """How a run ends that an exception leaves: killed by Ctrl-C, completed by ``sys.exit(0)``."""
    if error is None or (isinstance(error, SystemExit) and error.code in {None, 0}):
        return "completed"
    return "killed" if isinstance(error, KeyboardInterrupt) else "failed"


def describe_exception(error: BaseException | None) -> str:
    """The type and the message, in at most 2,000 characters; empty where nothing failed."""
    if status_of_exception(error) == "completed":
        return ""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # a foreign __str__ may raise anything
        text = ""
    name = type(error).__name__
    return (f"{name}: {text}" if text else name)[:2000]


def _install() -> None:
    previous = sys.excepthook

    def note_exception(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        _end_of_program.append((status_of_exception(error), describe_exception(error)))
        previous(kind, error, trace)

    sys.excepthook = note_exception
    atexit.register(_finish_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_become_inert)


def _finish_all() -> None:
    status, error = _end_of_program[-1] if _end_of_program else ("completed", "")
    runs = open_runs()
    try:
        for run in runs:
            run.end_with_program(status, error)
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        for run in runs:
            run.wait(max(0.0, deadline - time.monotonic()))
    except KeyboardInterrupt:
        # Ctrl-C once more: what is written is written, and the shipper delivers it.
        return


def _become_inert() -> None:
    for run in open_runs():
        run.become_inert()
    _open.clear()
