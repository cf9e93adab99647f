"""What the end of a command means."""

from __future__ import annotations

import errno

import pytest

from publishers.lastwords import EndNote
from publishers.wrapper.status import Ended, status_of_failure, words_for


@pytest.mark.parametrize(
    ("ended", "kills", "status", "error"),
    [
        (Ended(0), 0, "completed", ""),
        (Ended(0), 2, "completed", ""),
        (Ended(3), 0, "failed", "the command exited with status 3"),
        (Ended(signal=9), 0, "killed", "killed by SIGKILL"),
        (Ended(signal=15), 0, "killed", "killed by SIGTERM"),
        (Ended(signal=40), 0, "killed", "killed by signal 40"),
        (Ended(signal=9), 1, "killed", "killed by the kernel: out of memory (SIGKILL)"),
        (Ended(137), 1, "killed", "killed by the kernel: out of memory (SIGKILL)"),
        (
            Ended(143),
            0,
            "failed",
            "the command exited with status 143 (128 + 15: a process of it was killed by SIGTERM)",
        ),
        (Ended(255), 0, "failed", "the command exited with status 255"),
        (
            Ended(1),
            1,
            "failed",
            "the command exited with status 1; the kernel has killed a process of it: "
            "out of memory",
        ),
        (Ended(signal=15), 3, "killed", "killed by SIGTERM"),
    ],
)
def test_the_run_is_told_how_the_command_ended(
    ended: Ended, kills: int, status: str, error: str
) -> None:
    assert words_for(ended, kills, 5.0) == EndNote(status, error, 5.0)  # type: ignore[arg-type]  # parametrized


@pytest.mark.parametrize(
    ("code", "status"),
    [(errno.ENOENT, 127), (errno.ENOTDIR, 127), (errno.EACCES, 126), (errno.E2BIG, 126)],
)
def test_a_command_that_cannot_be_started_has_the_status_of_a_shell(code: int, status: int) -> None:
    assert status_of_failure(OSError(code, "")) == status


def test_a_signal_is_shown_as_shells_show_it() -> None:
    assert Ended(signal=9).shell_status == 137
    assert Ended(4).shell_status == 4
