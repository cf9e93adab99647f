"""Runs parts as child processes: their lines on one screen, ended ones started again.

A part that ends with status 2 at its first start has refused its arguments or settings, which no
restart mends: then all of it ends, and the part's last line says why. Any other end is followed by
a restart with a growing wait. The broker starts first and ends last, so that workers can hand over
what they hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bus.cli.common import USAGE
from bus.errors import ConfigError, TrainbusError
from bus.up.plan import Part
from bus.up.restarts import Restarts
from bus.waiting import end_tasks, wait_for_event

__all__ = ["Supervisor"]

_STOP_SECONDS = 15.0
"""A worker finishes its writes within 10 s."""

_REST_SECONDS = 1.0
"""For the last lines of a part that has ended."""

_LINE_BYTES = 64 * 1024
_BROKER_SECONDS = 20.0


@dataclass(slots=True)
class Supervisor:
    """Keeps parts running until told to stop.

    Attributes:
        command: What stands before the arguments of a part.
        environ: Of the parts.
        show: Takes the name of a part and a line, of the part's or about it.
        broker_answers: Whether the broker accepts connections yet.
        clock: Monotonic seconds.
    """

    command: Sequence[str]
    environ: Mapping[str, str]
    show: Callable[[str, str], None]
    broker_answers: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    _refusals: list[str] = field(default_factory=list)

    async def run(self, parts: Sequence[Part], stop: asyncio.Event) -> None:
        """Run all parts until ``stop`` is set, then end them.

        Raises:
            ConfigError: A part refused its settings.
            TrainbusError: A part cannot be started, or the broker does not come up.
        """
        halt = asyncio.Event()
        brokers = [self._keep(part, stop, halt) for part in parts if part.is_broker]
        others = [self._keep(part, stop, stop) for part in parts if not part.is_broker]
        broker_tasks = [asyncio.create_task(one) for one in brokers]
        tasks: list[asyncio.Task[None]] = []
        try:
            if broker_tasks:
                await self._await_broker(stop)
            tasks = [asyncio.create_task(one) for one in others]
            others = []
            await asyncio.gather(*tasks)
        finally:
            for never_begun in others:
                never_begun.close()
            stop.set()
            await _settle(tasks)
            halt.set()
            await _settle(broker_tasks)
        for task in (*broker_tasks, *tasks):
            task.result()
        if self._refusals:
            raise ConfigError(self._refusals[0])

    async def _await_broker(self, stop: asyncio.Event) -> None:
        """Workers wait for a broker by themselves, but each would say that there is none."""
        deadline = self.clock() + _BROKER_SECONDS
        while not stop.is_set() and not await asyncio.to_thread(self.broker_answers):
            if self.clock() > deadline:
                raise TrainbusError(f"the broker does not answer after {_BROKER_SECONDS:.0f} s")
            await wait_for_event(stop, 0.05)

    async def _keep(self, part: Part, stop: asyncio.Event, halt: asyncio.Event) -> None:
        """Keep one part running.

        Args:
            part: Which.
            stop: Set to end all of it; set here when the part refuses its settings.
            halt: Set when this part is to end.
        """
        restarts = Restarts(self.clock)
        is_first = True
        while not halt.is_set():
            restarts.started()
            status, last_line = await self._run_once(part, halt)
            if halt.is_set():
                return
            if status == USAGE and is_first:
                self._refusals.append(f"{part.name}: {last_line.removeprefix('trainbus: ')}")
                stop.set()
                return
            is_first = False
            wait = restarts.ended()
            self.show(part.name, f"ended with status {status}; starts again in {wait:.1f} s")
            await wait_for_event(halt, wait)

    async def _run_once(self, part: Part, halt: asyncio.Event) -> tuple[int, str]:
        """Run a part to its end; its exit status and the last line it printed."""
        try:
            # A session of its own: Ctrl-C is for us, who end the parts in order.
            process = await asyncio.create_subprocess_exec(
                *self.command,
                *part.arguments,
                env=dict(self.environ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                limit=_LINE_BYTES,
            )
        except OSError as error:
            raise TrainbusError(f"cannot start {part.name}: {error.strerror}") from error
        printed = _Printed()
        reading = asyncio.create_task(self._read(part, process, printed))
        halting = asyncio.create_task(halt.wait())
        ending = asyncio.create_task(process.wait())
        try:
            await asyncio.wait((ending, halting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(process)
            # A process that the part has left behind may hold the other end of the pipe.
            await asyncio.wait((reading,), timeout=_REST_SECONDS)
            await end_tasks([halting, ending, reading])
        return process.returncode or 0, printed.last

    async def _read(
        self, part: Part, process: asyncio.subprocess.Process, printed: _Printed
    ) -> None:
        """Show what a part prints, line by line."""
        assert process.stdout is not None
        while True:
            try:
                raw = await process.stdout.readline()
            except ValueError:
                continue  # longer than the limit: asyncio has dropped it
            if not raw:
                return
            line = raw.decode(errors="replace").rstrip()
            if line:
                printed.last = line
                self.show(part.name, line)


@dataclass(slots=True)
class _Printed:
    """What a part has printed."""

    last: str = ""


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL to one that does not heed it."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _settle(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for the end of tasks that were told to end; whoever calls looks at their results."""
    if tasks:
        await asyncio.wait(tasks)
