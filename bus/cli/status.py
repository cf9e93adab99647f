"""``trainbus status``: who is at work on the bus, and what is wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from bus.cli.common import (
    FAILED,
    JsonOption,
    LogOption,
    format_bytes,
    format_count,
    format_time,
    make_table,
    open_log,
    print_json,
)
from bus.config import Settings
from bus.errors import BrokerError, ConfigError, LogError
from bus.memberline import member_line
from bus.status import LogFacts, Status, make_status

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["status"]

LISTEN_SECONDS = 2.5
"""Two heartbeats, and a little."""

RECENT_SECONDS = 86_400.0
_SHOWN_RUNS = 20

_SINK_STATES = {"closed": "works", "half-open": "tried", "open": "down"}
"""A circuit as people say it: a closed one sounds like a broken one."""


def status(
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again.")] = False,
    listen: Annotated[
        float, typer.Option(min=0.1, help="Seconds to listen; over one heartbeat of everybody.")
    ] = LISTEN_SECONDS,
    log_url: LogOption = None,
) -> None:
    """Show nodes, runs and groups; exit status 1 when something is wrong."""
    settings = Settings.from_environment()
    if watch:
        _watch(settings, log_url, listen, as_json)
        return
    found = _look(settings, log_url, listen)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)
    if not found.is_healthy:
        raise typer.Exit(FAILED)


def _look(settings: Settings, log_url: str | None, seconds: float) -> Status:
    from bus.group.listen import Heard, listen

    topics, error = settings.topics, None
    filters = [topics.nodes_filter, topics.groups_filter]
    try:
        heard = asyncio.run(listen(settings.broker, topics, filters, seconds))
    except BrokerError as failure:
        heard, error = Heard(topics), str(failure)
    facts = _ask_log(log_url, time.time())
    return make_status(str(settings.broker), error, heard.members, heard.nodes, facts)


def _ask_log(url: str | None, now: float) -> LogFacts:
    try:
        with open_log(url) as log:
            runs = log.open_runs(now - RECENT_SECONDS)
            return LogFacts(runs, log.groups(), log.count_dead_letters())
    except LogError as error:
        return LogFacts(error=str(error), is_failure=error.is_retryable)
    except ConfigError as error:
        if url is not None:
            raise
        return LogFacts(error=str(error))


def _watch(settings: Settings, log_url: str | None, seconds: float, as_json: bool) -> None:
    """Show it until Ctrl-C: as JSON a line each time."""
    from rich.live import Live

    try:
        if as_json:
            for found in _looks(settings, log_url, seconds):
                typer.echo(orjson.dumps(found.to_dict()).decode())
        with Live(auto_refresh=False) as live:
            for found in _looks(settings, log_url, seconds):
                live.update(_render(found), refresh=True)
    except KeyboardInterrupt:
        return


def _looks(settings: Settings, log_url: str | None, seconds: float) -> Iterator[Status]:
    while True:
        began = time.monotonic()
        yield _look(settings, log_url, seconds)
        # Without a broker there is nothing to listen to, and the answer comes at once.
        time.sleep(max(began + seconds - time.monotonic(), 0.0))


def _print(found: Status) -> None:
    import sys

    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if is_terminal else 200, highlight=False)
    console.print(_render(found))


def _render(found: Status) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    members = [Text(line, style="dim") for line in _member_lines(found)]
    parts: list[Any] = [_groups_table(found), *members, _nodes_table(found), _runs_table(found)]
    lines = [f"note: {note}" for note in found.notes]
    lines += [f"wrong: {problem}" for problem in found.problems] or ["all is well"]
    if len(found.runs) > _SHOWN_RUNS:
        lines.insert(0, f"and {len(found.runs) - _SHOWN_RUNS} more runs in flight")
    return Group(*(part for part in parts if part is not None), Text("\n".join(lines)))


def _groups_table(found: Status) -> Any:
    numbers = ("members", "shards", "lag", "seconds", "retries", "rate waits", "dead")
    table = make_table("group", *numbers, "sink", numbers=numbers)
    for group in found.groups:
        table.add_row(
            *(group.group, str(len(group.members)), f"{group.owned} of {group.shards}"),
            *(format_count(group.lag), f"{group.lag_seconds:,.1f}", format_count(group.retries)),
            *(format_count(group.rate_waits), format_count(group.dead)),
            "" if group.group == "log" or not group.members else _SINK_STATES[group.circuit],
        )
    return table


def _member_lines(found: Status) -> list[str]:
    """A line for each worker that has something to show."""
    lines = (
        member_line(f"{group.group} {member.member}", member.report)
        for group in found.groups
        for member in group.members
    )
    return [line for line in lines if line]


def _nodes_table(found: Status) -> Any:
    if not found.nodes:
        return None
    numbers = ("sources", "waiting", "backlog")
    table = make_table("node", "spool", *numbers, numbers=numbers)
    for node in found.nodes:
        table.add_row(
            *(node.node, node.spool, format_count(node.sources), format_count(node.waiting)),
            format_bytes(node.backlog_bytes),
        )
    return table


def _runs_table(found: Status) -> Any:
    if not found.runs:
        return None
    table = make_table(
        "run in flight", "project", "name", "events", "last event", numbers=("events",)
    )
    for run in found.runs[:_SHOWN_RUNS]:
        table.add_row(
            *(run.run, run.project, run.run_name, format_count(run.events)),
            format_time(run.last_time),
        )
    return table
