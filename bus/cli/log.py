"""``trainbus log``: what the event log holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bus.cli.common import (
    JsonOption,
    KindOption,
    LogOption,
    ProjectOption,
    SinceOption,
    UntilOption,
    format_bytes,
    format_count,
    format_time,
    make_table,
    meter,
    open_log,
    parse_kinds,
    parse_time,
    print_json,
    print_table,
    say,
    select_runs,
    single_run,
)
from bus.cli.export import Format, check_output, export_events
from bus.cli.runview import (
    RUNNING,
    event_dict,
    event_line,
    print_run,
    run_dict,
    source_views,
)
from bus.eventlog import Selection

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Show and export what the event log holds.")


@app.command("ls")
def list_runs(
    project: ProjectOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many runs.")] = 50,
    as_json: JsonOption = False,
    log_url: LogOption = None,
) -> None:
    """List runs, the latest event first."""
    with open_log(log_url) as log:
        runs = log.runs(project, limit)
    if as_json:
        print_json([run_dict(run) for run in runs])
        return
    if not runs:
        say(f"no runs in the event log {log.place}")
        return
    table = make_table(
        *("project", "run", "name", "status", "events", "size", "sources", "lost", "last event"),
        numbers=("events", "size", "sources", "lost"),
    )
    for run in runs:
        table.add_row(
            *(run.project, run.run, run.run_name, run.status or RUNNING),
            *(format_count(run.events), format_bytes(run.bytes), str(run.sources)),
            *(format_count(run.lost) if run.lost else "", format_time(run.last_time)),
        )
    print_table(table)
    if len(runs) == limit:
        say(f"the latest {limit} runs; --limit shows more")


@app.command("show")
def show_run(
    run: Annotated[str, typer.Argument(help="Id of the run, or its name.")],
    project: ProjectOption = None,
    events: Annotated[bool, typer.Option("--events", help="List every event.")] = False,
    as_json: JsonOption = False,
    log_url: LogOption = None,
) -> None:
    """Show one run: its sources, the ids stored, holes, and how many events of each kind."""
    with open_log(log_url) as log:
        project, run = single_run(log, run, project)
        summary = log.runs(project, None, run)[0]
        views = source_views(log, run, project)
        listed = log.select(Selection(run=run, project=project)) if events else iter(())
        if as_json:
            value = {**run_dict(summary), "sources": [view.to_dict() for view in views]}
            if events:
                value["event_list"] = [event_dict(event) for event in listed]
            print_json(value)
            return
        print_run(summary, views)
        for event in listed:
            typer.echo(event_line(event))


@app.command("export")
def export_runs(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids or names of runs.")],
    project: ProjectOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    kind: KindOption = None,
    output_format: Annotated[
        Format, typer.Option("--format", "-f", help="Exact events, or a table of metric points.")
    ] = Format.JSONL,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Else standard output.")
    ] = None,
    log_url: LogOption = None,
) -> None:
    """Export events as JSON Lines, exactly as published, or metric points as Parquet."""
    check_output(output_format, output)
    kinds, start, end = parse_kinds(kind), parse_time(since), parse_time(until)
    with open_log(log_url) as log:
        chosen, project = select_runs(log, runs, project)
        selection = Selection(run=chosen, project=project, since=start, until=end, kinds=kinds)
        total, _ = log.count(selection)
        with meter("exporting", total) as progress:
            number = export_events(log.select(selection), output_format, output, progress.advance)
    say(f"exported {number} to {output or 'standard output'}")
