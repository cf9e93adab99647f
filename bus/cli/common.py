"""What the commands share: how they fail, how they read and show numbers, sizes and times.

A command raises :class:`bus.errors.TrainbusError`; :mod:`bus.cli.main` turns it into one line and
an exit status. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from bus.config import Settings
from bus.errors import ConfigError
from bus.kinds import KINDS

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from bus.eventlog import EventLog

__all__ = [
    "FAILED",
    "USAGE",
    "JsonOption",
    "KindOption",
    "LogOption",
    "Meter",
    "ProjectOption",
    "SinceOption",
    "UntilOption",
    "format_bytes",
    "format_count",
    "format_ids",
    "format_time",
    "make_table",
    "meter",
    "open_log",
    "parse_kinds",
    "parse_time",
    "print_json",
    "print_table",
    "say",
    "select_runs",
    "single_run",
]

FAILED = 1
"""Exit status: the command was understood and could not be done, or found something missing."""

USAGE = 2
"""Exit status: wrong arguments or settings."""

LogOption = Annotated[
    str | None,
    typer.Option("--log", metavar="URL", help="Event log; by default TRAINBUS_LOG."),
]
ProjectOption = Annotated[
    str | None, typer.Option("--project", "-p", metavar="P", help="Only this project.")
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Events from this time on: 2026-01-31T12:00, or 3h ago."
    ),
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Events before this time.")
]
KindOption = Annotated[
    list[str] | None,
    typer.Option("--kind", "-k", metavar="K", help="Only this kind; may be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])(?:\s+ago)?")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SHOWN_RANGES = 12


def say(text: str) -> None:
    """Print a line for a person to standard error."""
    typer.echo(text, err=True)


def print_json(value: Any) -> None:
    """Print a result as indented JSON."""
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def format_count(number: int) -> str:
    """Such as 1,234,567."""
    return f"{number:,}"


def format_bytes(size: float) -> str:
    """Such as 3.2 MB, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_time(seconds: float | None) -> str:
    """Unix seconds as a local time to the second; empty for None."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_ids(ranges: Sequence[tuple[int, int]]) -> str:
    """Ranges such as ``3, 7-9``; the rest of a long list is only counted."""
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges[:_SHOWN_RANGES])
    rest = len(ranges) - _SHOWN_RANGES
    return f"{shown} and {rest} more ranges" if rest > 0 else shown


def parse_time(text: str | None, now: float | None = None) -> float | None:
    """Read a time of the command line as Unix seconds; None stays None.

    Takes ISO 8601 (local time unless it names a zone), Unix seconds, or how long ago: ``90s``,
    ``15m``, ``3h``, ``2d``, ``1w``, with or without "ago".

    Raises:
        ConfigError: It is none of these.
    """
    if text is None:
        return None
    match = _AGO.fullmatch(text.strip())
    if match:
        moment = time.time() if now is None else now
        return moment - float(match[1]) * _UNIT_SECONDS[match[2]]
    try:
        return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else _iso_seconds(text)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{text!r} is no time: use 2026-01-31T12:00, Unix seconds, or 15m, 3h, 2d for ago"
        ) from None


def _iso_seconds(text: str) -> float:
    # Without a zone, timestamp() takes it as local time.
    return datetime.fromisoformat(text).timestamp()


def parse_kinds(names: Sequence[str] | None) -> frozenset[str] | None:
    """Check kinds given on the command line; None for no restriction.

    Raises:
        ConfigError: A kind is unknown.
    """
    if not names:
        return None
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise ConfigError(f"no kind {unknown[0]!r}; there are {', '.join(KINDS)}")
    return frozenset(names)


def open_log(url: str | None) -> EventLog:
    """Open the event log that is there, by ``--log`` or the settings.

    Raises:
        ConfigError: The URL is wrong, or the extra ``log`` is not installed.
        LogError: There is no log, or it cannot be reached.
    """
    from bus.eventlog import EventLog  # SQLAlchemy: only when a log is really opened

    return EventLog.open(url or Settings.from_environment().log or "", create=False)


def single_run(log: EventLog, run: str, project: str | None) -> tuple[str, str]:
    """The (project, run) that a person means by the id or the name of a run.

    Raises:
        ConfigError: There is no such run, or there are several.
    """
    found = [pair for pair in log.find_runs(run) if project in (None, pair[0])]
    if not found:
        where = f" in project {project!r}" if project else ""
        raise ConfigError(
            f"no run {run!r}{where} in the event log {log.place}: see trainbus log ls"
        )
    if len(found) > 1:
        names = ", ".join(f"{name}/{identity}" for name, identity in found[:5])
        raise ConfigError(
            f"{len(found)} runs are called {run!r} ({names}): give the run's id and --project"
        )
    return found[0]


def select_runs(
    log: EventLog, runs: Sequence[str] | None, project: str | None
) -> tuple[tuple[str, ...] | None, str | None]:
    """The runs and the project of a :class:`bus.eventlog.Selection`; None does not restrict.

    Raises:
        ConfigError: A run is not there, or is not clear.
    """
    if not runs:
        return None, project
    found = [single_run(log, run, project) for run in runs]
    projects = {name for name, _ in found}
    return tuple(run for _, run in found), projects.pop() if len(projects) == 1 else None


def make_table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """A table; columns named in ``numbers`` are set to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        is_number = column in numbers
        # A name that is too long goes on in the next line: a cut one could not be copied.
        table.add_column(
            column,
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
        )
    return table


def print_table(table: Table) -> None:
    """Print a table to standard output; as wide as it needs when that is no terminal."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    Console(file=sys.stdout, width=None if is_terminal else 200, highlight=False).print(table)


@dataclass(slots=True)
class Meter:
    """A progress bar that counts events."""

    progress: Progress
    task: TaskID
    done: int = 0

    def advance(self, number: int = 1) -> None:
        """Count events as done."""
        self.done += number
        self.progress.advance(self.task, number)


@contextmanager
def meter(title: str, total: int | None) -> Iterator[Meter]:
    """Show count, rate and time left on standard error; nothing when that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f}/s" if speed else "")

    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Meter(progress, progress.add_task(title, total=total))
