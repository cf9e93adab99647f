"""From ``run.log({...})`` to a line of the journal: the one path that has to be fast.

:meth:`MetricRows.log` writes the row without looking at its values, and then looks at the bytes:
if they hold anything but the characters of numbers, some value was a NaN (which shows as null), a
bool, a text or a list, and the slow path takes every value apart. The same way out serves a table
that is not named yet, a failed write, and whatever else is unusual.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from threading import RLock
from typing import Any
from zlib import crc32

import orjson

from bus.errors import EventError
from publishers.drops import Drops
from publishers.journal.writer import Journal, Table
from publishers.values import json_scalar, whole_number, wire_number

__all__ = ["MAX_RECORD_BYTES", "MetricRows", "check_key", "check_time"]

MAX_RECORD_BYTES = 200 * 1024
"""Largest record: an event of 256 KiB leaves the rest for its envelope."""

MAX_KEY_CHARACTERS = 1024
"""As in :mod:`bus.kinds`."""

_NUMBER_CHARACTERS = b"0123456789+-.eE,"
_NUMBER_BYTES = 26
"""Most bytes a value takes in a row, comma included: ``-1.7976931348623157e+308``."""

_TIME_LIMIT = 253_402_300_799
"""The last second of the year 9999 (Unix seconds)."""

_MAX_TABLES = 10_000
"""Key sets remembered; a program that makes a new one at every step must not fill the memory."""


class MetricRows:
    """Writes the rows of one source. Any thread may use it.

    Attributes:
        journal: Where the lines go. May be replaced at any time.
    """

    def __init__(
        self,
        journal: Journal,
        drops: Drops,
        *,
        rank: int = 0,
        is_strict: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin with no tables and no step.

        Args:
            journal: Where the lines go.
            drops: Told of values that cannot be taken.
            rank: Rank of this process; others than 0 prefix their keys with ``rank{n}/``.
            is_strict: Raise EventError for such values instead.
            clock: Unix seconds.
        """
        self.journal = journal
        self._drops = drops
        self._rank = rank
        self._is_strict = is_strict
        self._clock = clock
        self._lock = RLock()
        self._step = -1
        self._numbers = count(1)
        self._tables: dict[tuple[object, ...], list[tuple[Table, int]]] = {}

    def log(
        self,
        metrics: Mapping[str, Any],
        step: Any = None,
        *,
        rank_prefix: bool = True,
        at: Any = None,
    ) -> None:
        """Write one row; see :meth:`publishers.Run.log`."""
        if step is None:
            with self._lock:
                self._step = step = self._step + 1
        try:
            declared = self.journal.declared
            keys = tuple(metrics) if rank_prefix else (None, *metrics)
            now = self._clock() if at is None else check_time(at)
            row = [declared[keys], now, step, *metrics.values()]
            payload = orjson.dumps(row, json_scalar)
            if step.__class__ is int and payload.translate(None, _NUMBER_CHARACTERS) == b"[]":
                line = b"%08x %b\n" % (crc32(payload), payload)
                if self.journal.append_row(line, declared):
                    self._step = step
                    return
        except Exception:  # noqa: BLE001  # the slow path meets it again, and names it
            pass
        try:
            self._log_slowly(metrics, step, rank_prefix, at)
        except EventError:
            raise
        except Exception as error:  # noqa: BLE001  # the bus must never stop a training
            reason = f"{type(error).__name__}: {error}"
            self._drops.add("internal", f"a row is lost: {reason}", about=reason)

    def skip(self, step: Any = None) -> None:
        """Count a row that another rank writes, so that steps nobody names stay the same."""
        with self._lock:
            if step is None:
                self._step += 1
            elif step.__class__ is int:
                self._step = step

    def reset_after_fork(self) -> None:
        """Make the copy in a forked child usable: another thread may have held the lock."""
        self._lock = RLock()

    def _log_slowly(
        self, metrics: Mapping[str, Any], step: Any, rank_prefix: bool, at: Any
    ) -> None:
        now = self._clock()
        if not isinstance(metrics, Mapping):
            self._refuse("metrics", f"log() takes a dict, not {type(metrics).__name__}")
            return
        field = "step"
        try:
            step = self._step = whole_number(step)
            field = "at"
            now = now if at is None else check_time(at)
        except ValueError as error:
            self._refuse(field, str(error), count=len(metrics))
            return
        keys: list[str] = []
        values: list[int | float | str] = []
        for key, value in metrics.items():
            try:
                number = wire_number(value)
                check_key(key, room=len(self._prefix(rank_prefix)))
            except ValueError as error:
                self._refuse(f"metrics[{key!r:.80}]", str(error))
            else:
                keys.append(key)
                values.append(number)
        start = 0
        for table, width in self._find_tables(keys, rank_prefix):
            row = [table.number, now, step, *values[start : start + width]]
            self.journal.append(orjson.dumps(row), table)
            start += width

    def _find_tables(self, keys: Sequence[str], rank_prefix: bool) -> list[tuple[Table, int]]:
        """The tables that hold these keys one after the other, each with its width."""
        if not keys:
            return []
        wanted: tuple[object, ...] = tuple(keys) if rank_prefix else (None, *keys)
        with self._lock:
            found = self._tables.get(wanted)
            if found is None:
                if len(self._tables) >= _MAX_TABLES:
                    # Numbers are never given twice, so that forgetting a table is safe.
                    self._tables.clear()
                found = list(self._make_tables(keys, rank_prefix))
                self._tables[wanted] = found
        return found

    def _make_tables(self, keys: Sequence[str], rank_prefix: bool) -> Iterator[tuple[Table, int]]:
        prefix = self._prefix(rank_prefix)
        for part in split_keys(keys, MAX_RECORD_BYTES, extra=len(prefix)):
            number = next(self._numbers)
            names = [prefix + key for key in part]
            declaration = orjson.dumps({"table": number, "keys": names})
            found_by = tuple(part) if rank_prefix else (None, *part)
            yield Table(number, found_by, declaration), len(part)

    def _prefix(self, rank_prefix: bool) -> str:
        return f"rank{self._rank}/" if rank_prefix and self._rank else ""

    def _refuse(self, field: str, reason: str, count: int = 1) -> None:
        if self._is_strict:
            raise EventError(field, reason)
        self._drops.add("bad_value", f"{field}: {reason}; it is left out", about=field, count=count)


def check_time(seconds: Any) -> float:
    """A time of the caller's own, Unix seconds.

    Raises:
        ValueError: It is no number, or beyond what an event can have.
    """
    try:
        if 0 <= seconds < _TIME_LIMIT:
            return float(seconds)
    except TypeError:
        pass
    raise ValueError(f"{seconds!r:.40} is no time in Unix seconds")


def check_key(key: object, room: int = 0) -> None:
    """Check a name of a metric, parameter or tag.

    Args:
        key: The name.
        room: Characters that will be put before it.

    Raises:
        ValueError: It is not one; the message says why.
    """
    if not isinstance(key, str):
        raise ValueError(f"a name is a str, not {type(key).__name__}")
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS - room:
        raise ValueError(f"a name has 1 to {MAX_KEY_CHARACTERS - room} characters, not {len(key)}")
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise ValueError("a name holds a lone surrogate, which UTF-8 cannot carry") from error


def split_keys(keys: Sequence[str], limit: int, extra: int = 0) -> Iterator[list[str]]:
    """Cut keys into runs whose names and one row of values stay below ``limit`` bytes."""
    part: list[str] = []
    size = 0
    for key in keys:
        needed = len(orjson.dumps(key)) + 1 + extra + _NUMBER_BYTES
        if part and size + needed > limit:
            yield part
            part, size = [], 0
        part.append(key)
        size += needed
    if part:
        yield part
