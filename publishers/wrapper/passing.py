"""Reads what a command prints and passes it on unchanged, to where it went before.

A stream that was a terminal stays one for the command: a pseudo-terminal of the same size, which
changes no byte. Any other becomes a pipe. Standard output and error that were one file get one pipe
or pseudo-terminal, so that their order is kept.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Passing"]

_READ_BYTES = 64 * 1024
_POLL_MS = 50
_LONGEST_REST_SECONDS = 2.0
"""After the end of the command, for what a process it left behind goes on printing."""

_WINDOW = struct.calcsize("HHHH")


class Passing:
    """One stream, or standard output and error together."""

    def __init__(self, fds: list[int], take: Callable[[bytes], None]) -> None:
        """Make the way; nothing is read yet.

        Args:
            fds: What the command is to have it as: 1, 2 or both, which are the same file.
            take: Given all that passes, from a thread of its own; must not raise, nor wait.

        Raises:
            OSError: There are no descriptors left.
        """
        self._target = fds[0]
        self._take = take
        self._is_terminal = os.isatty(self._target)
        self._source, self._end = _open_terminal(self._target) if self._is_terminal else os.pipe()
        self.outputs = [(self._end, fd) for fd in fds]
        self._has_ended_at: float | None = None
        self._thread = threading.Thread(target=self._pass_all, name="trainbus-output", daemon=True)

    @property
    def is_done(self) -> bool:
        """All has been passed on."""
        return not self._thread.is_alive()

    def start(self) -> None:
        """The command has its end: begin."""
        os.close(self._end)
        self._end = -1
        self._thread.start()

    def abandon(self) -> None:
        """There will be no command."""
        os.close(self._end)
        os.close(self._source)

    def command_ended(self) -> None:
        """Pass on what is left, and wait for no more."""
        self._has_ended_at = time.monotonic()

    def match_window(self) -> bool:
        """Give the pseudo-terminal the size of the terminal; says whether that has changed."""
        if not self._is_terminal:
            return False
        with suppress(OSError):
            wanted = fcntl.ioctl(self._target, termios.TIOCGWINSZ, bytes(_WINDOW))
            if wanted != fcntl.ioctl(self._source, termios.TIOCGWINSZ, bytes(_WINDOW)):
                fcntl.ioctl(self._source, termios.TIOCSWINSZ, wanted)
                return True
        return False

    def _pass_all(self) -> None:
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        try:
            while not self._is_over():
                if not poll.poll(_POLL_MS):
                    if self._has_ended_at is not None:
                        break
                    continue
                # A pseudo-terminal whose other side is closed gives EIO in the place of an end.
                data = os.read(self._source, _READ_BYTES)
                if not data:
                    break
                self._take(data)
                self._write(data)
        except OSError:
            # Nobody reads any more, and the command learns that as it would without us: from
            # its next write.
            pass
        finally:
            os.close(self._source)

    def _is_over(self) -> bool:
        ended = self._has_ended_at
        return ended is not None and time.monotonic() - ended > _LONGEST_REST_SECONDS

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._target, left) :]
            except BlockingIOError:
                # Some other process has made the terminal or pipe that we share non-blocking.
                select.select([], [self._target], [])


def _open_terminal(like: int) -> tuple[int, int]:
    """Both sides of a pseudo-terminal that leaves the bytes as they are."""
    ours, theirs = os.openpty()
    with suppress(OSError, termios.error):
        # The real terminal makes of line feeds what it wants to, once.
        settings = termios.tcgetattr(like)
        settings[1] &= ~termios.OPOST
        termios.tcsetattr(theirs, termios.TCSANOW, settings)
        size = fcntl.ioctl(like, termios.TIOCGWINSZ, bytes(_WINDOW))
        fcntl.ioctl(ours, termios.TIOCSWINSZ, size)
    return ours, theirs
