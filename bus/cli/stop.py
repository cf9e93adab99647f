"""``trainbus stop``: asks a run that is under way to stop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated

import typer

from bus.cli.common import FAILED, LogOption, open_log, say, single_run
from bus.config import Settings
from bus.errors import ConfigError, EventError, LogError
from bus.source import Source

__all__ = ["stop"]

BY = "trainbus stop"
WAIT_SECONDS = 15.0
"""Long enough for a shipper that died: it is started again after two seconds."""

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Found:
    """A run, and what the event log says of it.

    Attributes:
        named: Sources that should be at work.
        ended: Sources that have ended.
        status: How the run ended; None while it runs.
        is_known: The event log knows the run.
        is_log_there: There is an event log.
    """

    project: str
    run: str
    named: list[str] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    status: str | None = None
    is_known: bool = False
    is_log_there: bool = False

    @property
    def title(self) -> str:
        return f"run {self.run!r} of project {self.project!r}"


def stop(
    run: Annotated[
        str, typer.Argument(help="Id of the run, or its name; only the id without an event log.")
    ],
    project: Annotated[
        str | None,
        typer.Option(
            "--project", "-p", metavar="P", help="Its project; needed without an event log."
        ),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", "-r", metavar="TEXT", help="Shown by the training.")
    ] = "",
    wait: Annotated[
        float, typer.Option("--wait", min=0.1, help="Seconds to wait until all have been told.")
    ] = WAIT_SECONDS,
    log_url: LogOption = None,
) -> None:
    """Ask a run to stop: its processes see run.should_stop within a second.

    Exit status 1 when not all of them could be told. A training that does not ask for
    run.should_stop goes on.
    """
    from bus.stoprequest import StopRequest, ask_to_stop

    settings = Settings.from_environment()
    found = _find(run, project, log_url)
    try:
        settings.topics.control(found.project, found.run)
    except EventError as error:
        raise ConfigError(f"{found.title} cannot exist: {error}") from error
    asked_at = time.time()
    request = StopRequest(
        found.run,
        found.named,
        found.ended,
        asked_at,
        is_patient=not found.is_log_there,
    )
    asyncio.run(
        ask_to_stop(
            settings.broker,
            settings.topics,
            (found.project, found.run),
            request,
            (reason, BY, asked_at),
            wait,
        )
    )
    ended: set[str] = set()
    if request.unconfirmed and found.is_known:
        # Some may have ended meanwhile, of themselves.
        with suppress(LogError):
            ended = _find(found.run, found.project, log_url).ended & request.named
    left = [name for name in request.unconfirmed if name not in ended]
    _report(found, request.confirmed, ended - request.confirmed, left, request.heard)
    if left:
        raise typer.Exit(FAILED)


def _find(run: str, project: str | None, log_url: str | None) -> _Found:
    """The run that is meant.

    Raises:
        ConfigError: It is unknown or not clear, and no project is given.
        LogError: The event log cannot be asked, and no project is given.
    """
    from bus.stoprequest import named_in_the_log

    try:
        log = open_log(log_url)
    except (ConfigError, LogError) as error:
        if log_url is not None:
            raise
        if project is None:
            raise type(error)(f"{error}; or give the run's id and its --project") from error
        say(f"note: the event log is not asked: {error}")
        return _Found(project, run)
    with log:
        if project is not None and not any(project == name for name, _ in log.find_runs(run)):
            # It may be too young for the log; a node that serves it knows it.
            return _Found(project, run, is_log_there=True)
        project, run = single_run(log, run, project)
        status = log.runs(project, None, run)[0].status
        names = [state.source for state in log.sources(run, project)]
        ended = set(log.finished(run, project))
    named = named_in_the_log(names, ended) if status is None else []
    return _Found(project, run, named, ended, status, is_known=True, is_log_there=True)


def _report(
    found: _Found, told: set[str], ended: set[str], left: list[str], heard: set[str]
) -> None:
    """Say who was told and who was not.

    Raises:
        ConfigError: There is no such run.
        typer.Exit: Nobody is there to be told.
    """
    if not told and not ended and not left:
        if found.is_log_there and not found.is_known:
            raise ConfigError(f"no {found.title}: neither the event log nor any node knows it")
        state = f"has ended ({found.status})" if found.status else "is served by no node now"
        say(f"trainbus: {found.title} {state}: nobody to ask")
        raise typer.Exit(FAILED)
    if told:
        typer.echo(f"{found.title}: {_count(told)} told to stop")
    if ended:
        typer.echo(f"{found.title}: {_count(ended)} ended meanwhile")
    for name in left[:_SHOWN]:
        source = Source.parse(name)
        why = "no shipper serves it"
        if name in heard:
            why = "its shipper did not confirm"
            # Heartbeats name runs without their projects.
            why += "" if found.is_known else f"; is it of project {found.project!r}?"
        say(f"not told: rank {source.rank} on {source.node}: {why}")
    if len(left) > _SHOWN:
        say(f"not told: and {len(left) - _SHOWN} more")


def _count(names: Iterable[str]) -> str:
    nodes = Counter(Source.parse(name).node for name in names)
    processes = "process" if nodes.total() == 1 else "processes"
    return f"{nodes.total()} {processes} on {len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}"
