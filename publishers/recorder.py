"""Writes every record that is not a row: checked, bounded, and with its bytes beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import msgspec
import orjson

from bus.errors import EventError
from bus.kinds import KINDS
from publishers.drops import Drops
from publishers.journal.format import make_payload
from publishers.journal.rows import MAX_RECORD_BYTES, check_key
from publishers.journal.writer import Journal
from publishers.media import MediaError
from publishers.snapshot import BlobRecord, SnapshotError, Snapshots, safe_name

__all__ = ["MAX_START_FIELD_BYTES", "NO_SPOOL", "Recorder", "check_data", "group_by_size"]

MAX_START_FIELD_BYTES = 48 * 1024
"""Each of tags, notes, config and options of ``run_started``: together they fit into a record."""

NO_SPOOL = "no_spool"
"""The word for what is lost because the spool could not be made."""

_STAND_IN = {"name": "blob", "size": 0, "sha256": "0" * 64}
"""Stands for the blob that the shipper adds once it is uploaded."""

_LAST_ID = {"last_id": 1}
"""Stands for what only the shipper can know."""


def check_data(kind: str, data: dict[str, Any], *, has_blob: bool = False) -> None:
    """Check the data of a record against the contract of its kind.

    Raises:
        EventError: It breaks it; the field is named.
    """
    extra: dict[str, Any] = {"blob": _STAND_IN} if has_blob else {}
    if kind == "run_finished":
        extra = _LAST_ID
    try:
        msgspec.convert({**data, **extra}, KINDS[kind])
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `")
        raise EventError(path.rstrip("`").replace("$", "data", 1) or "data", reason) from error


def group_by_size(
    values: Mapping[str, Any], limit: int = MAX_RECORD_BYTES
) -> tuple[list[dict[str, Any]], list[str]]:
    """Group values so that each group stays below ``limit`` bytes once written.

    Returns:
        The groups, and the keys of values that are over the limit alone.
    """
    groups: list[dict[str, Any]] = []
    too_large: list[str] = []
    room = 0
    for key, value in values.items():
        size = len(orjson.dumps({key: value}))
        if size > limit:
            too_large.append(key)
            continue
        if size > room or not groups:
            groups.append({})
            room = limit
        groups[-1][key] = value
        room -= size
    return groups, too_large


class Recorder:
    """Writes the records of one source. Any thread may use it.

    Attributes:
        journal: Where the lines go. May be replaced at any time.
    """

    def __init__(
        self,
        journal: Journal,
        drops: Drops,
        snapshots: Snapshots | None,
        *,
        is_strict: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin.

        Args:
            journal: Where the lines go.
            drops: Told of what cannot be taken.
            snapshots: Copies files; None when there is no spool.
            is_strict: Raise EventError for values that cannot be taken instead.
            clock: Unix seconds.
        """
        self.journal = journal
        self._drops = drops
        self._snapshots = snapshots
        self._is_strict = is_strict
        self._clock = clock
        self._refusal: tuple[str, str] | None = None
        if snapshots is None:
            self.refuse(NO_SPOOL, "there is no spool")

    def attempt(self, what: str, action: Callable[[], object]) -> None:
        """Do something for the training, which no failure of it may reach.

        Whatever goes wrong is counted and warned about once per ``what``.

        Raises:
            EventError: A value cannot be taken, and the recorder is strict.
        """
        if self._refusal is not None:
            self._drops.add(*self._refusal)
            return
        try:
            action()
        except SnapshotError as error:
            self._drops.add(error.cause, f"{what}: {error}", about=what)
        except (EventError, MediaError) as error:
            failure = error if isinstance(error, EventError) else EventError(what, str(error))
            if self._is_strict:
                raise failure from error
            self._drops.add("bad_value", f"{what}: {error}; it is left out", about=what)
        except Exception as error:  # noqa: BLE001  # the bus must never stop a training
            reason = f"{type(error).__name__}: {error}"
            self._drops.add("internal", f"{what} failed: {reason}", about=what)

    def refuse(self, cause: str, message: str) -> None:
        """Take nothing from now on, and say why."""
        self._refusal = (cause, message)

    def take(
        self, what: str, mapping: object, convert: Callable[[Any], Any], prefix: str = ""
    ) -> dict[str, Any]:
        """The values of a mapping that can be taken; the others are counted, or raised if strict.

        Args:
            what: The argument's name, for messages.
            mapping: What the caller gave.
            convert: Makes a value what JSON holds; raises ValueError where it cannot.
            prefix: Put before each name.

        Raises:
            EventError: It is no mapping, or, when strict, a name or value cannot be taken.
        """
        if not isinstance(mapping, Mapping):
            raise EventError(what, f"is a dict, not {type(mapping).__name__}")
        taken: dict[str, Any] = {}
        for key, value in mapping.items():
            name = key if isinstance(key, str) else str(key)
            try:
                check_key(name, room=len(prefix))
                taken[prefix + name] = convert(value)
            except ValueError as error:
                field = f"{what}[{name!r:.80}]"
                if self._is_strict:
                    raise EventError(field, str(error)) from error
                self._drops.add("bad_value", f"{field}: {error}; it is left out", about=field)
        return taken

    def record(self, kind: str, data: dict[str, Any]) -> bool:
        """Write one record without bytes; False when it could not be written.

        Raises:
            EventError: It breaks the contract of its kind, or is too large.
        """
        check_data(kind, data)
        return self._write({"kind": kind, "time": self._clock(), "data": data})

    def record_file(
        self, kind: str, data: dict[str, Any], make: Callable[[Snapshots], BlobRecord]
    ) -> bool:
        """Copy a file and write its record; False when that could not be written.

        Args:
            kind: Of the record.
            data: All of its data but the blob.
            make: Makes the copy.

        Raises:
            EventError: It breaks the contract of its kind, or is too large.
            SnapshotError: There is no copy to be had.
        """
        check_data(kind, data, has_blob=True)
        if self._snapshots is None:
            raise SnapshotError(NO_SPOOL, "there is no spool to copy files to")
        # The time of the call, and not of the end of a long copy.
        record = {"kind": kind, "time": self._clock(), "data": data}
        blob = make(self._snapshots)
        is_written = False
        try:
            is_written = self._write({**record, "blob": blob.as_dict()})
        finally:
            if not is_written:
                self._snapshots.remove(blob)
        return is_written

    def _write(self, record: dict[str, Any]) -> bool:
        try:
            payload = make_payload(record)
        except TypeError as error:
            raise EventError("data", str(error)) from error
        # Groups are cut at the limit; the rest is kind and time.
        if len(payload) > MAX_RECORD_BYTES + 4096:
            raise EventError("data", f"has {len(payload)} bytes, over {MAX_RECORD_BYTES}")
        return self.journal.append(payload)

    def record_values(
        self,
        kind: str,
        values: dict[str, Any],
        wrap: Callable[[dict[str, Any]], dict[str, Any]],
        folder: str,
    ) -> None:
        """Write values by name, in as many records as their size asks for.

        Args:
            kind: Of the records.
            values: As JSON holds them.
            wrap: Makes a record's data of its share.
            folder: Among the artifacts, for values too large for a record.
        """
        groups, too_large = group_by_size(values)
        if too_large:
            notes = {key: self._note(folder, key, values[key]) for key in too_large}
            groups += group_by_size(notes)[0]
        for group in groups:
            self.record(kind, wrap(group))

    def record_start(self, started: dict[str, Any]) -> None:
        """Write ``run_started``; tags and settings too large for it go beside it."""
        config, tags = started["config"], started["tags"]
        if len(orjson.dumps(tags)) > MAX_START_FIELD_BYTES:
            started = {**started, "tags": {}}
        else:
            tags = {}
        if len(orjson.dumps(config)) > MAX_START_FIELD_BYTES:
            started = {**started, "config": {"note": "too large: see artifact config/config.json"}}
        else:
            config = {}
        self.record("run_started", started)
        if tags:
            self.record_values("tags", tags, lambda part: {"set": part}, "tags")
        if config:
            self._note("config", "config", config)

    def _note(self, folder: str, key: str, value: Any) -> str:
        """Write a value that is too large for a record as an artifact; gives what to say there."""
        name = safe_name(key)
        if name != key:
            # Other names may come to the same file name.
            name = f"{name}-{crc32(key.encode()):08x}"
        path = f"{folder}/{name}.json"
        content = orjson.dumps(value)
        try:
            self.record_file(
                "artifact", {"path": path}, lambda copies: copies.write(f"{name}.json", content)
            )
        except SnapshotError as error:
            self._drops.add(error.cause, f"{path}: {error}", about=path)
            return "too large for an event, and there was no room for a file"
        return f"too large for an event: see artifact {path}"
