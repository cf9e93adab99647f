"""Trainings that are under way in this process, and what becomes of those that do not end."""

from __future__ import annotations

import atexit
import sys
import threading
from contextlib import suppress
from typing import Protocol

from publishers.exits import describe_exception, status_of_exception

__all__ = ["Unended", "begin", "forget"]

_NO_END = "the training did not come to its end"


class Unended(Protocol):
    """A training that has begun."""

    def give_up(self, status: str, error: str) -> None:
        """It will not go on: end its run."""


_under_way: dict[int, tuple[int, Unended]] = {}
_is_watching = False


def begin(training: Unended) -> None:
    """A training begins in this thread: one that was under way here has crashed.

    Older versions of Ultralytics, and YOLOv5, tell nobody of a crash. Where the program survives
    it, the next training shows that it happened; else the end of the program does.
    """
    global _is_watching
    if not _is_watching:
        _is_watching = True
        # After publishers.exits has registered: what is registered last runs first.
        atexit.register(_give_up_all)
    thread = threading.get_ident()
    for owner, other in list(_under_way.values()):
        if owner == thread:
            other.give_up("failed", f"{_NO_END}: another began in its place")
    _under_way[id(training)] = (thread, training)


def forget(training: Unended) -> None:
    """It has ended."""
    _under_way.pop(id(training), None)


def _give_up_all() -> None:
    # Set where an uncaught exception was printed.
    error = getattr(sys, "last_value", None)
    status = "failed" if error is None else status_of_exception(error)
    for _, training in list(_under_way.values()):
        with suppress(Exception):
            training.give_up(status, _NO_END if error is None else describe_exception(error))
