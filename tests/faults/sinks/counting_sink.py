"""A sink that notes when it is called: a line of JSON for each request, in ``COUNTING_SINK_FILE``.

It keeps nothing else, so that whoever takes a run over begins anew; requests are what is counted.
``COUNTING_SINK_REFUSES`` names a project that it takes nothing for. With ``COUNTING_SINK_PAUSE``,
such as ``busy:5``, the first call for a run of that project is answered with a pause of so many
seconds, and the run is to stop, as its tracker would say. With ``COUNTING_SINK_KEEP_ALIVE`` it
wants to be told of runs every so many seconds; that call hangs when ``COUNTING_SINK_HANGS`` is set.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence

from bus.config import Settings
from bus.errors import RetryableSinkError
from bus.events import Event
from bus.kinds import KINDS
from bus.sinks import BatchLimits, Marks, RunRef, SinkContents, StopListener


class CountingSink:
    """Counts; see above."""

    name = "counting"
    kinds = frozenset(KINDS)
    limits = BatchLimits()

    def __init__(self, path: str, refused: str, pause: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._refused = refused
        self._busy, _, self._pause = pause.partition(":")
        self._tell_stop: StopListener | None = None
        self._stopped = 0

    def tell_stops_to(self, listener: StopListener) -> None:
        self._tell_stop = listener

    def state(self) -> dict[str, int]:
        return {"stopped": self._stopped} if self._stopped else {}

    async def open_run(self, run: RunRef) -> Marks:
        self._note("open", run)
        return Marks()

    async def write(self, run: RunRef, events: Sequence[Event], marks: Marks) -> None:
        self._note("write", run, len(events))

    async def close_run(self, run: RunRef) -> None: ...

    async def contents(self, run: RunRef) -> SinkContents | None:
        return None

    async def close(self) -> None:
        os.close(self._file)

    def _note(self, call: str, run: RunRef, events: int = 0) -> None:
        line = {"at": time.time(), "call": call, "run": run.run, "events": events}
        os.write(self._file, json.dumps({**line, "pid": os.getpid()}).encode() + b"\n")
        if run.project == self._busy and self._pause:
            seconds, self._pause = float(self._pause), ""
            self._stopped += 1
            if self._tell_stop is not None:
                self._tell_stop(run, "too many requests")
            raise RetryableSinkError("too many requests", seconds)
        if run.project == self._refused:
            raise RetryableSinkError("this project is read-only")


class AliveSink(CountingSink):
    """Wants to be told of runs; see above."""

    keep_alive_seconds = 0.0
    is_hanging = False

    async def keep_alive(self, run: RunRef) -> None:
        self._note("keep_alive", run)
        if self.is_hanging:
            await asyncio.Event().wait()


def create(settings: Settings, environ: Mapping[str, str]) -> CountingSink:
    path, refused = environ["COUNTING_SINK_FILE"], environ.get("COUNTING_SINK_REFUSES", "")
    pause = environ.get("COUNTING_SINK_PAUSE", "")
    if "COUNTING_SINK_KEEP_ALIVE" not in environ:
        return CountingSink(path, refused, pause)
    sink = AliveSink(path, refused, pause)
    sink.keep_alive_seconds = float(environ["COUNTING_SINK_KEEP_ALIVE"])
    sink.is_hanging = bool(environ.get("COUNTING_SINK_HANGS"))
    return sink
