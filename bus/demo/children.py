"""The processes of the demo: started, watched, and ended whatever happens."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bus.errors import TrainbusError

__all__ = ["Child", "Children"]

_SHOWN_LINES = 6
_STOP_SECONDS = 10.0


@dataclass(slots=True)
class Child:
    """One process.

    Attributes:
        name: For people.
        printed: File of what it printed, both streams.
    """

    name: str
    printed: Path
    process: subprocess.Popen[bytes]

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self.process.poll()

    def output(self) -> str:
        """All it has printed so far."""
        return self.printed.read_text("utf-8", errors="replace")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def failure(self) -> TrainbusError:
        """That it ended when it should not have, and the last that it printed."""
        tail = " | ".join(self.output().strip().splitlines()[-_SHOWN_LINES:])
        return TrainbusError(f"{self.name} ended with status {self.status}: {tail or 'no output'}")


class Children:
    """All processes of one demo."""

    def __init__(self, folder: Path, printed: Path) -> None:
        """Start nothing yet.

        Args:
            folder: Working directory of the processes; must exist.
            printed: Folder of what they print; made when missing.
        """
        self._folder = folder
        self._printed = printed
        self._all: list[Child] = []
        printed.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Sequence[str], environ: Mapping[str, str]) -> Child:
        """Start a process in a session of its own: Ctrl-C is for the demo, which ends it.

        Raises:
            TrainbusError: It cannot be run.
        """
        file = self._printed / f"{name.replace(' ', '-')}.log"
        try:
            with file.open("ab") as output:
                process = subprocess.Popen(
                    command,
                    env=dict(environ),
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise TrainbusError(f"cannot start {name} ({command[0]}): {error.strerror}") from error
        child = Child(name, file, process)
        self._all.append(child)
        return child

    def stop(self, *children: Child) -> None:
        """SIGTERM to each, wait for all together, SIGKILL to what is left after ten seconds."""
        for child in children:
            child.process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
        for child in children:
            child.kill()

    def stop_all(self) -> None:
        """Stop whatever still runs, in the order it was started."""
        self.stop(*(child for child in self._all if child.status is None))
