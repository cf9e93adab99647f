"""What the end of a command means: exit status, status of the run, words. Pure.

Exit statuses are those of shells (https://pubs.opengroup.org/onlinepubs/9699919799/, 2.8.2).
"""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass

from publishers.lastwords import EndNote

__all__ = ["CANNOT_RUN", "NOT_FOUND", "Ended", "status_of_failure", "words_for"]

NOT_FOUND = 127
CANNOT_RUN = 126

_SHELL_BASE = 128
"""Shells report a command killed by signal n as 128 + n."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
        status: Its exit status; 0 where a signal killed it.
        signal: The signal that killed it; 0 for none.
    """

    status: int = 0
    signal: int = 0

    @property
    def shell_status(self) -> int:
        """The exit status as shells show it."""
        return _SHELL_BASE + self.signal if self.signal else self.status


def status_of_failure(error: OSError) -> int:
    """The exit status for a command that could not be started."""
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return NOT_FOUND
    return CANNOT_RUN


def words_for(ended: Ended, oom_kills: int, time: float, pid: int = 0) -> EndNote:
    """What to tell the run.

    Args:
        ended: How the command ended.
        oom_kills: How many processes of its control group the kernel has killed meanwhile for
            want of memory.
        time: When it ended, Unix seconds.
        pid: Of the command.
    """
    if ended == Ended():
        return EndNote("completed", time=time, pid=pid)
    code = ended.signal or _signal_in(ended.status)
    if oom_kills and code == signal.SIGKILL:
        return EndNote("killed", "killed by the kernel: out of memory (SIGKILL)", time)
    if ended.signal:
        return EndNote("killed", f"killed by {_name(ended.signal)}", time)
    error = f"the command exited with status {ended.status}"
    if code:
        error += f" (128 + {code}: a process of it was killed by {_name(code)})"
    if oom_kills:
        processes = "a process" if oom_kills == 1 else f"{oom_kills} processes"
        error += f"; the kernel has killed {processes} of it: out of memory"
    return EndNote("failed", error, time)


def _signal_in(status: int) -> int:
    """The signal that a shell means by its own exit status; 0 for none."""
    code = status - _SHELL_BASE
    return code if code in signal.valid_signals() else 0


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
