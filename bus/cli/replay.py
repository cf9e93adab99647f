"""``trainbus replay``: from the event log to one group, once more."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Annotated

import typer

from bus.cli.common import (
    KindOption,
    LogOption,
    ProjectOption,
    SinceOption,
    UntilOption,
    format_bytes,
    format_count,
    make_table,
    meter,
    open_log,
    parse_kinds,
    parse_time,
    print_table,
    say,
    select_runs,
)
from bus.config import Settings
from bus.errors import ConfigError
from bus.eventlog.records import RunCount, Selection

if TYPE_CHECKING:
    from bus.eventlog import EventLog

__all__ = ["replay"]


def replay(
    to: Annotated[str, typer.Option("--to", metavar="GROUP", help="Which group gets the events.")],
    run: Annotated[
        list[str] | None,
        typer.Option("--run", "-r", metavar="R", help="Id or name of a run; may be repeated."),
    ] = None,
    project: ProjectOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    kind: KindOption = None,
    everything: Annotated[bool, typer.Option("--all", help="All runs of the log.")] = False,
    speed: Annotated[
        str, typer.Option(help="1x keeps the pace of the training, 10x is faster; or max.")
    ] = "max",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be sent.")
    ] = False,
    unregistered: Annotated[
        bool,
        typer.Option("--unregistered", help="Send even if no such group is known to the log."),
    ] = False,
    log_url: LogOption = None,
) -> None:
    """Send events from the log to one group again; what it has already, it drops."""
    from bus.replay import parse_speed

    if not (run or project or since or everything):
        raise ConfigError("say what to replay: --run, --project or --since; or --all")
    factor = parse_speed(speed)
    start, end, kinds = parse_time(since), parse_time(until), parse_kinds(kind)
    settings = Settings.from_environment()
    with open_log(log_url) as log:
        _check_group(log, to, unregistered)
        runs, project = select_runs(log, run, project)
        selection = Selection(run=runs, project=project, since=start, until=end, kinds=kinds)
        counts = log.count_runs(selection)
        if dry_run or not counts:
            _print_counts(counts, to)
            return
        _send(log, selection, counts, to, factor, settings)


def _check_group(log: EventLog, group: str, is_any: bool) -> None:
    """A misspelt group would swallow everything without a word."""
    names = [found.group for found in log.groups()]
    if group in names:
        return
    known = f"there are: {', '.join(names)}" if names else "there are none yet"
    if not is_any:
        raise ConfigError(
            f"no group {group!r} has worked with this event log; {known}. "
            "Use --unregistered to send to whoever subscribes"
        )
    say(f"no group {group!r} has worked with this event log: only other subscribers will get this")


def _print_counts(counts: list[RunCount], group: str) -> None:
    if not counts:
        say("nothing in the event log matches")
        return
    table = make_table("project", "run", "name", "events", "size", numbers=("events", "size"))
    for count in counts:
        table.add_row(
            *(count.project, count.run, count.run_name),
            *(format_count(count.events), format_bytes(count.bytes)),
        )
    print_table(table)
    typer.echo(f"would send {_total(counts)} to {group}")


def _total(counts: list[RunCount]) -> str:
    events, size = sum(c.events for c in counts), sum(c.bytes for c in counts)
    runs = "1 run" if len(counts) == 1 else f"{len(counts)} runs"
    return f"{format_count(events)} events ({format_bytes(size)}) of {runs}"


def _send(
    log: EventLog,
    selection: Selection,
    counts: list[RunCount],
    group: str,
    speed: float | None,
    settings: Settings,
) -> None:
    from bus.mqtt import open_link
    from bus.replay import Pace
    from bus.replay import replay as send_events

    began = time.monotonic()

    async def send() -> None:
        client_id = f"trainbus-replay-{secrets.token_hex(4)}"
        async with open_link(settings.broker, client_id) as link:
            await send_events(
                log.select(selection),
                link,
                settings.topics,
                group,
                Pace(speed),
                on_sent=lambda size: progress.advance(),
            )

    with meter(f"replay to {group}", sum(count.events for count in counts)) as progress:
        asyncio.run(send())
    seconds = time.monotonic() - began
    say(f"sent {_total(counts)} to {group} in {seconds:.1f} s")
