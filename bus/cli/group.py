"""``trainbus group``: begin a group's work anew, or with another number of shards."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from bus.cli.common import LogOption, open_log, say
from bus.config import Settings
from bus.errors import ConfigError
from bus.eventlog import EventLog, Group
from bus.topics import LOG_GROUP, SLOTS

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Begin a group's work anew, or with another number of shards."
)

GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="log, mlflow, …")]
ListenOption = Annotated[
    float | None,
    typer.Option(
        "--listen",
        min=0.1,
        help="Seconds to listen for members; more than three of their heartbeats.",
    ),
]


@app.command("reset")
def reset(group: GroupArgument, listen: ListenOption = None, log_url: LogOption = None) -> None:
    """Remove the sessions of a group in the broker: it begins anew from the event log.

    Nothing is lost: what its sink holds is dropped, the rest is read from the event log. No worker
    of the group may be at work.
    """
    with open_log(log_url) as log:
        found = _find(log, group)
        _remove_sessions(Settings.from_environment(), group, listen)
        # Else its next members would look only at what has changed since.
        log.clear_sink_state(group, "")
    say(f"{group}: its sessions are removed; start its workers again ({found.shards} shards)")
    _say_what_follows(group)


@app.command("resize")
def resize(
    group: GroupArgument,
    shards: Annotated[
        int, typer.Option("--shards", min=1, max=SLOTS, help="Its number of shards from now on.")
    ],
    listen: ListenOption = None,
    log_url: LogOption = None,
) -> None:
    """Give a group another number of shards. No worker of the group may be at work.

    Nothing is lost: its old sessions are removed, and what they held is read from the event log.
    """
    settings = Settings.from_environment()
    with open_log(log_url) as log:
        found = _find(log, group)
        # In this order: while old sessions are there, nobody is to begin with the new number.
        _remove_sessions(settings, group, listen)
        log.resize_group(group, shards)
        # Somebody may have begun with the old number meanwhile.
        _require_nobody(settings, group, listen)
    say(f"{group}: {found.shards} shards before, {shards} from now on; start its workers again")
    _say_what_follows(group)


def _say_what_follows(group: str) -> None:
    if group == LOG_GROUP:
        say("shippers will send again what is not stored yet")


def _find(log: EventLog, group: str) -> Group:
    groups = {found.group: found for found in log.groups()}
    if group not in groups:
        known = f"there are: {', '.join(groups)}" if groups else "there are none yet"
        raise ConfigError(f"no group {group!r} has worked with this event log; {known}")
    return groups[group]


def _remove_sessions(settings: Settings, group: str, listen: float | None) -> None:
    from bus.group.control import remove_sessions

    _require_nobody(settings, group, listen)
    asyncio.run(remove_sessions(settings.broker, settings.topics, group))


def _require_nobody(settings: Settings, group: str, listen: float | None) -> None:
    from bus.group.control import LISTEN_SECONDS, require_nobody

    seconds = LISTEN_SECONDS if listen is None else listen
    asyncio.run(require_nobody(settings.broker, settings.topics, group, seconds))
