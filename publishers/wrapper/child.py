"""The command as a child process: started, given the signals that are meant for it, waited for.

The child stays in our process group. So the terminal is its own as if we were not there: what is
typed (Ctrl-C, Ctrl-Z) reaches it directly, it may read from the terminal, pipelines keep
their reader, and a signal to the whole group, SIGKILL included, leaves nobody behind. What the
kernel sends to the group we get as well, and must not pass on a second time: such a signal bears
the code SI_KERNEL. What any process sends to us is passed on.

Signals are blocked here and taken one by one in :meth:`Child.wait`, so that none is missed in
between; the child gets the mask we were started with.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from publishers.wrapper.status import Ended

__all__ = ["PASSED_ON", "Child", "Signals", "die_as", "find_program"]

PASSED_ON = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGXCPU,
    signal.SIGCONT,
    signal.SIGTSTP,
)
"""USR1, USR2 and XCPU are how job schedulers announce the end of the time."""

_ENDING = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}

_SI_KERNEL = 0x80
"""``si_code`` of a signal made by the kernel, as for a key of the terminal (Linux, signal.h)."""

_CHANGED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these from its start; a command expects them as they were."""


class Signals:
    """Blocks the signals that are passed on, for good, and takes them one by one."""

    def __init__(self) -> None:
        # Inherited as ignored, the kernel would take away our child itself and its status.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.waited_for = {signal.SIGCHLD, *PASSED_ON}
        self.previous = signal.pthread_sigmask(signal.SIG_BLOCK, self.waited_for)

    def take(self, timeout: float) -> signal.struct_siginfo | None:
        """The next one; None when none came for so many seconds."""
        return signal.sigtimedwait(self.waited_for, timeout)

    def is_asked_to_end(self, timeout: float) -> bool:
        """Whether a signal that ends processes came within so many seconds."""
        taken = self.take(timeout)
        return taken is not None and taken.si_signo in _ENDING

    def stop(self) -> None:
        """Stop this process until SIGCONT, for the shell that waits for us to see it.

        By SIGTSTP, which the kernel passes over where there is no shell that could go on with us.
        """
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})


def find_program(name: str, environ: Mapping[str, str]) -> str:
    """The path of a program, as a shell finds it.

    Raises:
        FileNotFoundError: There is none of this name.
        PermissionError: There is, but it is no program or may not be run.
    """
    path = environ.get("PATH", os.defpath)
    found = name if "/" in name else shutil.which(name, path=path)
    if found is None:
        is_there = shutil.which(name, os.F_OK, path) is not None
        if is_there:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        raise FileNotFoundError(errno.ENOENT, "command not found", name)
    return found


class Child:
    """One command."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        signals: Signals,
        outputs: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Start it.

        Args:
            command: Program and arguments.
            environ: Its environment.
            signals: Taken from now on.
            outputs: Descriptors of ours, and as what the child is to have them.

        Raises:
            OSError: It cannot be started.
        """
        self._signals = signals
        program = find_program(command[0], environ)
        try:
            self.pid = self._spawn(program, list(command), environ, outputs)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without a first line that says who runs it: shells run it themselves.
            shell = ["/bin/sh", program, *command[1:]]
            self.pid = self._spawn(shell[0], shell, environ, outputs)

    def _spawn(
        self,
        program: str,
        command: list[str],
        environ: Mapping[str, str],
        outputs: Iterable[tuple[int, int]],
    ) -> int:
        return os.posix_spawn(
            program,
            command,
            dict(environ),
            file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in outputs],
            setsigmask=self._signals.previous,
            setsigdef=_CHANGED_BY_PYTHON,
        )

    def wait(self, tick: Callable[[], None], tick_seconds: float) -> Ended:
        """Pass signals on until it has ended.

        Args:
            tick: Called now and then; must not raise, nor take long.
            tick_seconds: How often, at the least.
        """
        while (ended := self._look()) is None:
            taken = self._signals.take(tick_seconds)
            if taken is not None and taken.si_signo != signal.SIGCHLD:
                self._pass_on(taken)
            tick()
        return ended

    def send(self, number: int) -> None:
        """Send it a signal; nothing when it has ended."""
        with suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)

    def _look(self) -> Ended | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        if os.WIFSIGNALED(status):
            return Ended(signal=os.WTERMSIG(status))
        return Ended(os.WEXITSTATUS(status))

    def _pass_on(self, taken: signal.struct_siginfo) -> None:
        number = taken.si_signo
        is_for_all = taken.si_code == _SI_KERNEL or taken.si_pid == self.pid
        if not is_for_all:
            self.send(number)
        if number == signal.SIGTSTP:
            self._signals.stop()


def die_as(ended: Ended, deadline_seconds: float = 1.0) -> int:
    """End as the command did: by its signal, so that who waits for us sees the same.

    A shell that runs a loop stops it on Ctrl-C only when its command died by SIGINT.

    Returns:
        The exit status to take where no signal is due, or where it does not kill: process 1 of a
        container is spared those it does not handle.
    """
    if ended.signal and ended.signal not in {signal.SIGSTOP, signal.SIGCONT}:
        # The dump of the command is the one of interest.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if ended.signal != signal.SIGKILL:
            signal.signal(ended.signal, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {ended.signal})
        os.kill(os.getpid(), ended.signal)
        time.sleep(deadline_seconds)
    return ended.shell_status
