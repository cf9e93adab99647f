"""Writing events to a file: exact events as JSON Lines, or metric points as Parquet.

A file appears whole or not at all: it is written beside its place and then moved there.

Parquet columns: project, run, run_name, source, id (of the event), kind, time (UTC, microseconds),
step (null for values of the whole run), key, value (float64, NaN and infinities as they are).
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from bus.cli.common import format_count
from bus.errors import ConfigError, TrainbusError
from bus.eventlog.records import LoggedEvent
from bus.events import Event, decode
from bus.kinds import Metrics, NonFinite, Summary, System

__all__ = ["Format", "check_output", "export_events", "point_rows"]

_EVENTS_AT_ONCE = 100
_INT64 = 2**63


class Format(StrEnum):
    """What an export looks like."""

    JSONL = "jsonl"
    PARQUET = "parquet"


def check_output(output_format: Format, output: Path | None) -> None:
    """Say what is wrong with an export before anything is read.

    Raises:
        ConfigError: pyarrow is missing, or there is no file to write to.
    """
    if output is not None and not output.absolute().parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.absolute().parent}")
    if output_format is not Format.PARQUET:
        return
    if output is None:
        raise ConfigError("a Parquet file cannot go to standard output: name it with --output")
    try:
        import pyarrow.parquet  # noqa: F401  # only asks whether it is there
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--format parquet needs {error.name}: pip install 'trainbus[parquet]'"
        ) from error


def export_events(
    events: Iterable[LoggedEvent],
    output_format: Format,
    output: Path | None,
    on_events: Callable[[int], None],
) -> str:
    """Write events; ``on_events`` is called with how many were written since the last call.

    Returns:
        What was written, in words.

    Raises:
        TrainbusError: The file cannot be written.
    """
    iterator = iter(events)
    pages = iter(lambda: list(islice(iterator, _EVENTS_AT_ONCE)), [])
    if output is None:
        number = _write_lines(sys.stdout.buffer, pages, on_events)
        sys.stdout.buffer.flush()
        return f"{format_count(number)} events"
    try:
        with _replacing(output) as file:
            if output_format is Format.PARQUET:
                return f"{format_count(_write_points(file, pages, on_events))} points"
            return f"{format_count(_write_lines(file, pages, on_events))} events"
    except OSError as error:
        raise TrainbusError(f"cannot write {output}: {error}") from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_lines(
    file: BinaryIO, pages: Iterable[list[LoggedEvent]], on_events: Callable[[int], None]
) -> int:
    number = 0
    for page in pages:
        # In JSON a bare line break can only stand between tokens, where a blank does as well.
        file.write(b"".join(event.raw.replace(b"\n", b" ") + b"\n" for event in page))
        number += len(page)
        on_events(len(page))
    return number


def _write_points(
    file: BinaryIO, pages: Iterable[list[LoggedEvent]], on_events: Callable[[int], None]
) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("project", "run", "run_name", "source")),
            ("id", pa.int64()),
            ("kind", pa.string()),
            ("time", pa.timestamp("us", tz="UTC")),
            ("step", pa.int64()),
            ("key", pa.string()),
            ("value", pa.float64()),
        ]
    )
    number = 0
    with pq.ParquetWriter(file, schema) as writer:
        for page in pages:
            rows = [row for logged in page for row in point_rows(decode(logged.raw))]
            columns = list(zip(*rows, strict=True)) or [()] * len(schema)
            arrays = [
                pa.array(column, type=field.type)
                for column, field in zip(columns, schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            number += len(rows)
            on_events(len(page))
    return number


def point_rows(event: Event) -> Iterator[tuple[Any, ...]]:
    """The metric points of an event, as rows of the Parquet columns."""
    about = (event.project, event.run, event.run_name, event.source, event.id, event.kind)
    data = event.data
    if isinstance(data, Metrics):
        for table in data.tables:
            for row in table.rows:
                when, step = _microseconds(float(row[0])), _whole(int(row[1]))
                for key, value in zip(table.keys, row[2:], strict=True):
                    yield (*about, when, step, key, _float(value))
    elif isinstance(data, Summary | System):
        when = _microseconds(event.time)
        for key, value in data.values.items():
            yield (*about, when, None, key, _float(value))


def _microseconds(seconds: float) -> int | None:
    """Null where the column cannot hold it."""
    return _whole(round(seconds * 1e6)) if math.isfinite(seconds * 1e6) else None


def _whole(number: int) -> int | None:
    return number if -_INT64 <= number < _INT64 else None


def _float(number: float | NonFinite) -> float:
    try:
        return float(number)
    except OverflowError:  # a whole number beyond the range of a float
        return math.copysign(math.inf, int(number))
