"""``trainbus dead``: what a sink refused for good, and what to do about it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
import typer

from bus.cli.common import (
    FAILED,
    JsonOption,
    LogOption,
    ProjectOption,
    format_count,
    format_time,
    make_table,
    open_log,
    print_json,
    print_table,
    say,
)
from bus.config import Settings
from bus.errors import BrokerError, ConfigError
from bus.eventlog import DeadLetter, EventLog
from bus.eventlog.records import DISCARDED, OPEN, RESOLVED, RETRIED

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Show, retry and discard what a sink has refused for good."
)

MAX_ID = 2**63 - 1

GroupOption = Annotated[
    str | None, typer.Option("--group", "-g", metavar="G", help="Only of this group.")
]
RunOption = Annotated[
    str | None, typer.Option("--run", "-r", metavar="R", help="Only of this run, by id or name.")
]
StateOption = Annotated[
    list[str] | None,
    typer.Option("--state", metavar="S", help="open, retried, discarded, resolved; or all."),
]
IdsArgument = Annotated[
    list[int] | None,
    typer.Argument(metavar="ID...", min=1, max=MAX_ID, help="As trainbus dead ls shows."),
]
AllOption = Annotated[bool, typer.Option("--all", help="All that are open.")]

_STATES = (OPEN, RETRIED, DISCARDED, RESOLVED)
_CHOSEN = (OPEN, RETRIED)
"""The states that are shown, retried and discarded unless something else is asked for."""
_SHOWN_ERROR = 100
_POLL_SECONDS = 0.2


@app.command("ls")
def list_letters(
    group: GroupOption = None,
    run: RunOption = None,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
    log_url: LogOption = None,
) -> None:
    """List dead letters: those not dealt with, unless --state says otherwise."""
    states = _parse_states(state)
    with open_log(log_url) as log:
        letters = _find(log, group, run, project, states)
    if as_json:
        print_json([_letter_dict(letter) for letter in letters])
        return
    if not letters:
        say("no dead letters")
        return
    table = make_table(
        *("id", "state", "group", "project", "run", "event", "tries", "since", "error"),
        numbers=("id", "event", "tries"),
    )
    for letter in letters:
        table.add_row(
            *(str(letter.key), letter.state, letter.group, letter.project, letter.run),
            *(str(letter.id) if letter.source else "", str(letter.attempts)),
            *(format_time(letter.time), _short(letter.error)),
        )
    print_table(table)


@app.command("show")
def show_letter(
    number: Annotated[
        int, typer.Argument(metavar="ID", min=1, max=MAX_ID, help="As trainbus dead ls shows.")
    ],
    as_json: JsonOption = False,
    log_url: LogOption = None,
) -> None:
    """Show one dead letter with its reason and the original event."""
    with open_log(log_url) as log:
        (letter,) = _by_number(log, [number], has_raw=True)
    event = _event_of(letter)
    if as_json:
        print_json({**_letter_dict(letter), "event": event, "size": len(letter.raw)})
        return
    event_id = f"{letter.id} of {letter.source}" if letter.source else "none: never decoded"
    for name, value in (
        ("id", str(letter.key)),
        ("state", f"{letter.state} {format_time(letter.state_at)}".strip()),
        ("group", letter.group),
        ("project", letter.project),
        ("run", letter.run),
        ("event", event_id),
        ("reason", letter.reason),
        ("error", letter.error),
        ("tries", str(letter.attempts)),
        ("since", format_time(letter.time)),
    ):
        typer.echo(f"{name + ':':9}{value}")
    if isinstance(event, str):
        typer.echo(event)
    else:
        typer.echo(orjson.dumps(event, option=orjson.OPT_INDENT_2).decode())


@app.command("retry")
def retry_letters(
    ids: IdsArgument = None,
    group: GroupOption = None,
    run: RunOption = None,
    project: ProjectOption = None,
    everything: AllOption = False,
    wait: Annotated[
        float, typer.Option(min=0.0, help="Seconds to wait for what becomes of them.")
    ] = 10.0,
    log_url: LogOption = None,
) -> None:
    """Have events written again, by the group that gave them up; exit status 1 if one is refused.

    The request is kept in the event log until a worker has carried it out.
    """
    settings = Settings.from_environment()
    with open_log(log_url) as log:
        letters = _choose(log, ids, group, run, project, everything)
        undecodable = [letter.key for letter in letters if not letter.source]
        if undecodable and ids:
            raise ConfigError(
                f"letter {undecodable[0]} was never an event: it can only be shown and discarded"
            )
        keys = [one.key for one in letters if one.source and one.state != RESOLVED]
        delivered = sum(letter.state == RESOLVED for letter in letters)
        if delivered:
            say(f"{_letters(delivered)} delivered already: nothing to do")
        if not keys:
            if not delivered:
                say("no dead letters to retry")
            return
        log.retry_dead_letters(keys, time.time())
        asyncio.run(_send(log, keys, settings))
        is_refused = _watch(log, keys, wait)
    if is_refused:
        raise typer.Exit(FAILED)


@app.command("discard")
def discard_letters(
    ids: IdsArgument = None,
    group: GroupOption = None,
    run: RunOption = None,
    project: ProjectOption = None,
    everything: AllOption = False,
    log_url: LogOption = None,
) -> None:
    """Close dead letters for good. Their events stay in the event log, and dead in the receipt."""
    with open_log(log_url) as log:
        letters = _choose(log, ids, group, run, project, everything)
        number = log.discard_dead_letters([letter.key for letter in letters], time.time())
    say(f"discarded {_letters(number)}; trainbus verify goes on counting the events as dead")
    if number < len(letters):
        say(f"{_letters(len(letters) - number)} delivered already: left as they are")


def _parse_states(names: Sequence[str] | None) -> tuple[str, ...]:
    if not names:
        return _CHOSEN
    for name in names:
        if name not in (*_STATES, "all"):
            raise ConfigError(f"no state {name!r}; there are {', '.join(_STATES)}, and all")
    return _STATES if "all" in names else tuple(names)


def _find(
    log: EventLog,
    group: str | None,
    run: str | None,
    project: str | None,
    states: Sequence[str],
) -> list[DeadLetter]:
    """Letters by the options; a run is also found by its name."""
    runs = [None] if run is None else [run]
    if run is not None and not log.dead_letters(run=run, has_raw=False):
        found = log.find_runs(run)
        if not found:
            raise ConfigError(f"no run {run!r} in the event log {log.place}: see trainbus log ls")
        runs = sorted({identity for _, identity in found})
    letters = [
        letter
        for one in runs
        for letter in log.dead_letters(group, one, project, states=states, has_raw=False)
    ]
    return sorted(letters, key=lambda letter: letter.key)


def _by_number(log: EventLog, ids: Sequence[int], has_raw: bool = False) -> list[DeadLetter]:
    letters = log.dead_letters(keys=ids, has_raw=has_raw)
    missing = sorted(set(ids) - {letter.key for letter in letters})
    if missing:
        raise ConfigError(f"no dead letter {missing[0]}: see trainbus dead ls --state all")
    return letters


def _choose(
    log: EventLog,
    ids: Sequence[int] | None,
    group: str | None,
    run: str | None,
    project: str | None,
    everything: bool,
) -> list[DeadLetter]:
    """The letters a command is about: by number, in any state; else the open ones that match."""
    has_filter = group is not None or run is not None or project is not None
    if ids:
        if has_filter or everything:
            raise ConfigError(
                "give the numbers of dead letters, or --run, --group, --all; not both"
            )
        return _by_number(log, ids)
    if not has_filter and not everything:
        raise ConfigError("say which: numbers of dead letters, --run, --project, --group, or --all")
    return _find(log, group, run, project, _CHOSEN)


async def _send(log: EventLog, keys: Sequence[int], settings: Settings) -> None:
    """Nudge the groups: their workers would find the request in the log too, but later."""
    from bus.events import decode_envelope
    from bus.mqtt import open_link

    topics, client_id = settings.topics, f"trainbus-dead-{secrets.token_hex(4)}"
    try:
        async with open_link(settings.broker, client_id) as link:
            for key in keys:
                (letter,) = await asyncio.to_thread(log.dead_letters, keys=[key])
                kind = decode_envelope(letter.raw).kind
                topic = topics.replay(letter.group, letter.project, letter.run, kind)
                await link.publish(topic, letter.raw)
    except BrokerError as error:
        say(f"{error}; the request is in the event log, and workers find it there")


def _watch(log: EventLog, keys: Sequence[int], seconds: float) -> bool:
    """Wait until all have been tried, and say what became of them; True if any is refused again."""
    say(f"asked for {_letters(len(keys))} to be tried again")
    deadline = time.monotonic() + seconds
    while True:
        letters = log.dead_letters(keys=keys, has_raw=False)
        states = Counter(letter.state for letter in letters)
        if not states[RETRIED] or time.monotonic() >= deadline:
            break
        time.sleep(_POLL_SECONDS)
    if states[RESOLVED]:
        say(f"delivered: {format_count(states[RESOLVED])}")
    if states[RETRIED]:
        say(f"not tried yet: {format_count(states[RETRIED])}; trainbus dead ls shows them")
    for letter in letters:
        if letter.state == OPEN:
            say(f"refused again: {letter.key}: {_short(letter.error)}")
    return bool(states[OPEN])


def _letter_dict(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.key,
        "state": letter.state,
        "state_at": letter.state_at,
        "group": letter.group,
        "project": letter.project,
        "run": letter.run,
        "source": letter.source,
        "event_id": letter.id,
        "reason": letter.reason,
        "error": letter.error,
        "attempts": letter.attempts,
        "time": letter.time,
    }


def _event_of(letter: DeadLetter) -> Any:
    """The event as JSON; as text with escapes when it is none."""
    try:
        return orjson.loads(letter.raw)
    except orjson.JSONDecodeError:
        return letter.raw.decode("utf-8", "backslashreplace")


def _letters(number: int) -> str:
    return "1 dead letter" if number == 1 else f"{format_count(number)} dead letters"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_ERROR else f"{line[:_SHOWN_ERROR]}…"
