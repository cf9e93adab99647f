"""A sink that notes when it is called: a line of JSON for each request, in ``COUNTING_SINK_FILE``.

It keeps nothing else, so that whoever takes a run over begins anew; requests are what is counted.
``COUNTING_SINK_REFUSES`` names a project that it takes nothing for.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence

from bus.config import Settings
from bus.errors import RetryableSinkError
from bus.events import Event
from bus.kinds import KINDS
from bus.sinks import BatchLimits, Marks, RunRef, SinkContents


class CountingSink:
    """Counts; see above."""

    name = "counting"
    kinds = frozenset(KINDS)
    limits = BatchLimits()

    def __init__(self, path: str, refused: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._refused = refused

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
        os.write(self._file, json.dumps(line).encode() + b"\n")
        if run.project == self._refused:
            raise RetryableSinkError("this project is read-only")


def create(settings: Settings, environ: Mapping[str, str]) -> CountingSink:
    return CountingSink(environ["COUNTING_SINK_FILE"], environ.get("COUNTING_SINK_REFUSES", ""))
