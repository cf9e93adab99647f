"""``trainbus verify``: the receipt of a run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from bus.cli.common import (
    FAILED,
    JsonOption,
    LogOption,
    ProjectOption,
    format_count,
    format_ids,
    make_table,
    meter,
    open_log,
    print_json,
    print_table,
    single_run,
)
from bus.config import Settings
from bus.errors import ConfigError
from bus.eventlog.records import DISCARDED, OPEN, RETRIED, Selection
from bus.sinks import RunRef, sink_names
from bus.topics import LOG_GROUP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bus.eventlog import DeadLetter
    from bus.receipt import Receipt, SinkReceipt

__all__ = ["print_receipt", "verify"]

_NONE = "-"
_ALWAYS = ("", "published", "stored", "delivered", "dead", "missing", "points")
_SHOWN_LETTERS = 10


def verify(
    run: Annotated[str, typer.Argument(help="Id of the run, or its name.")],
    project: ProjectOption = None,
    sink: Annotated[
        list[str] | None,
        typer.Option("--sink", "-s", help="Only this sink; may be repeated. Else every group."),
    ] = None,
    as_json: JsonOption = False,
    log_url: LogOption = None,
) -> None:
    """Show what was published, stored and delivered; exit status 1 on a gap."""
    from bus.verify import POINT_KINDS, verify_run

    settings = Settings.from_environment()
    _check_sinks(sink)
    with open_log(log_url) as log:
        project, run = single_run(log, run, project)
        names = sink or [group.group for group in log.groups() if group.group != LOG_GROUP]
        summary = log.runs(project, None, run)[0]
        selection = Selection(run=run, project=project, kinds=POINT_KINDS)
        total, _ = log.count(selection)
        with meter("counting points", total) as progress:
            receipt = verify_run(
                log,
                RunRef(project, run, summary.run_name),
                names,
                settings,
                os.environ,
                on_events=progress.advance,
            )
        if as_json:
            print_json(receipt.to_dict())
        else:
            states = (OPEN, RETRIED, DISCARDED)
            letters = log.dead_letters(run=run, project=project, states=states, has_raw=False)
            print_receipt(receipt, letters)
    if not receipt.is_complete:
        raise typer.Exit(FAILED)


def _check_sinks(names: list[str] | None) -> None:
    installed = sink_names()
    for name in names or ():
        if name not in installed:
            raise ConfigError(f"no sink {name!r}; installed: {', '.join(installed) or 'none'}")


def print_receipt(receipt: Receipt, letters: Sequence[DeadLetter] = ()) -> None:
    """Print a receipt as a table, with a line for every gap and dead letter, and the outcome."""
    typer.echo(
        f"{receipt.project} / {receipt.run_name}: run {receipt.run}, {receipt.status or 'running'}"
    )
    rows = [_log_row(receipt), *(_sink_row(receipt, sink) for sink in receipt.sinks)]
    # What is zero everywhere needs no column, but for what everybody looks for.
    shown = [
        name
        for name in rows[0]
        if name in _ALWAYS or any(row[name] not in ("", "0") for row in rows)
    ]
    table = make_table(*shown, numbers=shown[1:])
    for row in rows:
        table.add_row(*(row[name] for name in shown))
    print_table(table)
    absent = {sink.name for sink in receipt.sinks if not sink.has_run}
    for gap in receipt.all_gaps():
        word = "lost for good" if gap.is_lost else "missing"
        if gap.where not in absent:
            typer.echo(f"{gap.where}: {word}: {format_ids(list(gap.ids))} of {gap.source}")
    for sink in receipt.sinks:
        _print_sink_notes(sink, [letter for letter in letters if letter.group == sink.name])
    if not receipt.sinks:
        typer.echo("no sink was asked: no group has worked with this event log yet")
    typer.echo(_verdict(receipt))


def _verdict(receipt: Receipt) -> str:
    if not receipt.is_complete:
        return "NOT complete"
    if receipt.status is None:
        return "complete so far: the run has not ended"
    return "complete: every published event is accounted for"


def _log_row(receipt: Receipt) -> dict[str, str]:
    return {
        "": "log",
        "published": format_count(receipt.published),
        "stored": format_count(receipt.stored),
        "delivered": "",
        "dead": "",
        "superseded": "",
        "not for it": "",
        "lost": format_count(receipt.lost),
        "missing": format_count(receipt.missing),
        "points": _count(receipt.points),
    }


def _sink_row(receipt: Receipt, sink: SinkReceipt) -> dict[str, str]:
    row = {"": sink.name, "published": format_count(receipt.published), "stored": ""}
    if sink.error is not None:
        row |= {"delivered": "?", "missing": "?", "points": "?"}
        return row | dict.fromkeys(("dead", "superseded", "not for it", "lost"), "")
    points = _count(sink.points_found)
    if sink.points_expected is not None:
        points = f"{points} of {format_count(sink.points_expected)}"
    return row | {
        "delivered": format_count(sink.delivered),
        "dead": format_count(sink.dead),
        "superseded": format_count(sink.superseded),
        "not for it": format_count(sink.not_applicable),
        "lost": format_count(sink.lost),
        "missing": format_count(sink.missing),
        "points": points,
    }


def _count(number: int | None) -> str:
    return _NONE if number is None else format_count(number)


def _print_sink_notes(sink: SinkReceipt, letters: list[DeadLetter]) -> None:
    if sink.error is not None:
        typer.echo(f"{sink.name}: cannot be asked: {sink.error}")
    elif not sink.has_run:
        typer.echo(f"{sink.name}: has no such run")
    if sink.points_missing:
        typer.echo(f"{sink.name}: {format_count(sink.points_missing)} points are missing")
    for letter in letters[:_SHOWN_LETTERS]:
        reason = " ".join(letter.error.split())[:200]
        typer.echo(f"{sink.name}: dead: {letter.id} of {letter.source}: {reason}")
    if len(letters) > _SHOWN_LETTERS:
        typer.echo(f"{sink.name}: and {len(letters) - _SHOWN_LETTERS} more dead letters")
    if sink.url:
        typer.echo(f"{sink.name}: {sink.url}")
