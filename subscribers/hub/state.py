"""What the hub sink keeps of each run: the applied marks, and what the service calls the run.

The services hold no marks for us, so both live in table ``sink_state`` of the event log, in one
value per run::

    {"version": 1, "service": "hub", "marks": {source: [applied, dead, superseded]}, "fields": {…}}

``fields`` is the service's own: ids, the last metrics, what a batch has done so far. A value is
written only in place of the one that was read or written last, so that a worker that was overtaken
cannot undo what its successor did (:class:`bus.errors.MarksMovedError`). Within one sink the writes
of a run follow each other: keeping a run alive may change its fields while a batch is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import orjson

from bus.config import Settings
from bus.errors import (
    ConfigError,
    EventError,
    LogError,
    MarksMovedError,
    PermanentSinkError,
    RetryableSinkError,
)
from bus.eventlog.aio import AsyncEventLog
from bus.events import Event, decode
from bus.idranges import IdRanges
from bus.sinks import Marks, RunRef

__all__ = ["RunRecord", "StateStore"]

_VERSION = 1


@dataclass(slots=True)
class RunRecord:
    """What is kept of one run, as this sink read or wrote it last.

    Attributes:
        marks: The applied marks.
        fields: What the service needs to go on; JSON. Change it by :meth:`StateStore.save` only.
        raw: The value in the log; None when there is none.
        lock: Held while it is written.
    """

    marks: Marks = field(default_factory=Marks)
    fields: dict[str, Any] = field(default_factory=dict)
    raw: bytes | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)


class StateStore:
    """The values of one group, in the event log. Opens it at the first call.

    Args:
        url: Database URL of the event log.
        group: Whose values they are.
        service: Written into each; the fields of another service are not read.
    """

    def __init__(self, url: str, group: str, service: str) -> None:
        self._url = url
        self._group = group
        self._service = service
        self._log: AsyncEventLog | None = None
        self._opening = asyncio.Lock()

    @classmethod
    def of(cls, settings: Settings, group: str, service: str) -> StateStore:
        """In the log of these settings.

        Raises:
            ConfigError: There is none.
        """
        if settings.log is None:
            raise ConfigError("the hub sink keeps its marks in the event log: set TRAINBUS_LOG")
        return cls(settings.log, group, service)

    async def read(self, run: RunRef) -> RunRecord:
        """What is kept of a run; an empty record when nothing is.

        Raises:
            RetryableSinkError: The log cannot be read now.
            PermanentSinkError: What is kept is damaged.
        """
        log = await self._open()
        try:
            raw = await log.get_sink_state(self._group, run.project, run.run)
        except LogError as error:
            _translate(error)
        if raw is None:
            return RunRecord()
        marks, fields = _decode(raw, self._service, run)
        return RunRecord(marks, fields, raw)

    async def save(
        self, run: RunRef, record: RunRecord, marks: Marks | None = None, **changes: Any
    ) -> None:
        """Write marks and fields that changed, and bring the record along.

        Args:
            run: Whose record it is.
            record: As read or saved last.
            marks: None to keep those of the record.
            changes: Fields by name; None removes one.

        Raises:
            MarksMovedError: Somebody else has written since; nothing was changed.
            RetryableSinkError: The log cannot be written now.
        """
        log = await self._open()
        async with record.lock:
            fields = {k: v for k, v in {**record.fields, **changes}.items() if v is not None}
            marks = (record.marks if marks is None else marks).copy()
            raw = _encode(marks, fields, self._service)
            if raw == record.raw:
                return
            try:
                is_done = await log.swap_sink_state(
                    self._group, run.project, run.run, record.raw, raw
                )
            except LogError as error:
                _translate(error)
            if not is_done:
                raise MarksMovedError(f"run {run.run!r}: another worker has written to it")
            record.marks, record.fields, record.raw = marks, fields, raw

    async def check(self, run: RunRef, record: RunRecord) -> None:
        """Make sure that a run is still ours before something large is done for it.

        Raises:
            MarksMovedError: Somebody else has written since.
            RetryableSinkError: The log cannot be read now.
        """
        log = await self._open()
        async with record.lock:
            try:
                raw = await log.get_sink_state(self._group, run.project, run.run)
            except LogError as error:
                _translate(error)
            if raw != record.raw:
                raise MarksMovedError(f"run {run.run!r}: another worker has written to it")

    async def event(self, source: str, number: int) -> Event | None:
        """An event of the log, for what must not be kept in fields; None when it is not there.

        Raises:
            RetryableSinkError: The log cannot be read now.
        """
        log = await self._open()
        try:
            found = await log.read(source, number, number)
        except LogError as error:
            _translate(error)
        try:
            return decode(found[0].raw) if found else None
        except EventError:
            return None

    async def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            await self._log.close()
            self._log = None

    async def _open(self) -> AsyncEventLog:
        async with self._opening:
            if self._log is None:
                try:
                    self._log = await AsyncEventLog.open(self._url)
                except LogError as error:
                    _translate(error)
            return self._log


def _translate(error: LogError) -> NoReturn:
    raise RetryableSinkError(f"what is kept of a run cannot be had: {error}") from error


def _encode(marks: Marks, fields: Mapping[str, Any], service: str) -> bytes:
    texts = {
        source: [
            str(applied),
            *(str(some.get(source, "")) for some in (marks.dead, marks.superseded)),
        ]
        for source, applied in marks.applied.items()
    }
    return orjson.dumps(
        {"version": _VERSION, "service": service, "marks": texts, "fields": dict(fields)}
    )


def _decode(raw: bytes, service: str, run: RunRef) -> tuple[Marks, dict[str, Any]]:
    try:
        value = orjson.loads(raw)
        version = value["version"]
        if version == _VERSION:
            marks = _marks(value["marks"])
            fields = value["fields"] if value["service"] == service else {}
            return marks, dict(fields)
    except (ValueError, TypeError, KeyError, AttributeError, EventError) as error:
        # Without it nobody knows which model is the run's, and a second would be made.
        raise PermanentSinkError(
            f"run {run.run!r}: what table sink_state of the event log holds of it is damaged "
            f"({type(error).__name__}): delete that row to begin the run anew"
        ) from error
    raise RetryableSinkError(
        f"run {run.run!r}: a newer trainbus (version {version} of sink_state) has written to it: "
        "upgrade this worker"
    )


def _marks(texts: Mapping[str, list[str]]) -> Marks:
    marks = Marks()
    for source, (applied, dead, superseded) in texts.items():
        marks.applied[source] = IdRanges.parse(applied)
        if dead:
            marks.dead[source] = IdRanges.parse(dead)
        if superseded:
            marks.superseded[source] = IdRanges.parse(superseded)
    return marks
