"""A sink that is not idempotent: it appends a row for every event it is given, into SQLite.

It keeps the applied marks beside the rows and writes both in one transaction, on the condition that
the marks are still those this worker read or wrote last: a worker that was paused past a takeover
cannot write. ``APPENDING_SINK_DB`` names its file, ``APPENDING_SINK_DELAY`` its latency in seconds;
with ``APPENDING_SINK_SERIAL`` a worker makes one call at a time, of at most so many events. With
``APPENDING_SINK_REFUSES=tags`` it refuses tags until the file ``APPENDING_SINK_FLAG`` exists.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from bus.config import Settings
from bus.errors import MarksMovedError, PermanentSinkError, RetryableSinkError
from bus.events import Event
from bus.idranges import IdRanges
from bus.kinds import KINDS, Metrics
from bus.sinks import BatchLimits, Marks, RunRef, SinkContents

P = ParamSpec("P")
T = TypeVar("T")

_TABLES = """
create table if not exists rows (
    number integer primary key autoincrement, run text, source text, id integer, points integer,
    at real
);
create table if not exists marks (run text primary key, version integer, applied text);
"""


class AppendingSink:
    """Appends rows; see above."""

    name = "appending"
    kinds = frozenset(KINDS)

    def __init__(self, path: str, delay_seconds: float, serial_events: int) -> None:
        self.limits = BatchLimits(events=serial_events or 20)
        self._turn = asyncio.Semaphore(1 if serial_events else 100)
        self._path = path
        self.refused = ""
        self.flag = Path(path)
        self._delay_seconds = delay_seconds
        self._versions: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(8)
        with self._connect() as connection:
            connection.executescript(_TABLES)
        connection.close()

    async def open_run(self, run: RunRef) -> Marks:
        return await self._call(self._open, run)

    async def write(self, run: RunRef, events: Sequence[Event], marks: Marks) -> None:
        if any(event.kind == self.refused for event in events) and not self.flag.exists():
            raise PermanentSinkError(f"{self.refused} are refused")
        async with self._turn:
            if self._delay_seconds:
                await asyncio.sleep(self._delay_seconds)
            await self._call(self._write, run, events, marks)

    async def close_run(self, run: RunRef) -> None:
        self._versions.pop(run.run, None)

    async def contents(self, run: RunRef) -> SinkContents | None:
        marks = await self._call(self._look, run)
        return None if marks is None else SinkContents(marks)

    async def close(self) -> None:
        self._pool.shutdown(wait=False)

    async def _call(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, lambda: call(*args, **kwargs))
        except sqlite3.OperationalError as error:
            raise RetryableSinkError(str(error)) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        connection.execute("pragma journal_mode=wal")
        return connection

    def _look(self, run: RunRef) -> Marks | None:
        """What the rows say, not what the marks promise; only dead letters have no row."""
        connection = self._connect()
        try:
            statement = "select applied from marks where run = ?"
            found = connection.execute(statement, (run.run,)).fetchone()
            statement = "select source, id, count(*) from rows where run = ? group by source, id"
            rows = connection.execute(statement, (run.run,)).fetchall()
        finally:
            connection.close()
        if found is None:
            return None
        marks = Marks(dead=_parse(found[0]).dead)
        for source, number, times in rows:
            if times > 1:
                raise PermanentSinkError(f"event {number} of {source} is there {times} times")
            marks.add_applied(source, number)
        for source, dead in marks.dead.items():
            marks.applied.setdefault(source, IdRanges()).update(dead)
        return marks

    def _open(self, run: RunRef) -> Marks:
        connection = self._connect()
        try:
            statement = "select version, applied from marks where run = ?"
            found = connection.execute(statement, (run.run,)).fetchone()
        finally:
            connection.close()
        version, text = found or (0, "")
        self._versions[run.run] = version
        return _parse(text)

    def _write(self, run: RunRef, events: Sequence[Event], marks: Marks) -> None:
        connection = self._connect()
        try:
            connection.execute("begin immediate")
            statement = "select version from marks where run = ?"
            found = connection.execute(statement, (run.run,)).fetchone()
            version = found[0] if found else 0
            if version != self._versions.get(run.run):
                raise MarksMovedError(f"version {version}, not {self._versions.get(run.run)}")
            connection.executemany(
                "insert into rows (run, source, id, points, at) values (?, ?, ?, ?, ?)",
                [(run.run, e.source, e.id, _points(e), time.time()) for e in events],
            )
            text = "\n".join(
                f"{source}\t{ids}\t{marks.dead.get(source, '')}"
                for source, ids in marks.applied.items()
            )
            connection.execute(
                "insert or replace into marks values (?, ?, ?)", (run.run, version + 1, text)
            )
            connection.execute("commit")
            self._versions[run.run] = version + 1
        finally:
            connection.close()


def _parse(text: str) -> Marks:
    lines = [line.split("\t") for line in text.splitlines()]
    applied = {source: IdRanges.parse(ids) for source, ids, _ in lines}
    return Marks(applied, {source: IdRanges.parse(dead) for source, _, dead in lines if dead})


def _points(event: Event) -> int:
    if not isinstance(event.data, Metrics):
        return 0
    return sum(len(table.keys) * len(table.rows) for table in event.data.tables)


def create(settings: Settings, environ: Mapping[str, str]) -> AppendingSink:
    delay = float(environ.get("APPENDING_SINK_DELAY") or 0)
    serial = int(environ.get("APPENDING_SINK_SERIAL") or 0)
    sink = AppendingSink(environ["APPENDING_SINK_DB"], delay, serial)
    sink.refused = environ.get("APPENDING_SINK_REFUSES", "")
    sink.flag = Path(environ.get("APPENDING_SINK_FLAG", ""))
    return sink
