"""``trainbus run``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from publishers.wrapper.child import die_as

__all__ = ["app"]

app = typer.Typer(add_completion=False)


# What stands behind the command's name is the command's, options included.
@app.command(context_settings={"allow_interspersed_args": False})
def run(
    command: Annotated[
        list[str], typer.Argument(metavar="-- CMD…", help="The command and its arguments.")
    ],
    project: Annotated[
        str | None,
        typer.Option(
            "--project",
            "-p",
            metavar="P",
            help="Default: TRAINBUS_PROJECT, else the folder's name.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", "-n", metavar="N", help="What people call the run.")
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--run-id", metavar="ID", help="The run, on all its nodes.")
    ] = None,
    console: Annotated[
        bool, typer.Option("--console", help="Publish the lines that it prints.")
    ] = False,
    system: Annotated[
        bool, typer.Option("--system", help="Publish CPU, memory and GPU readings.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what the wrapper does.")
    ] = False,
) -> None:
    """Run any training command with the bus attached, without touching its code.

    Output and exit status are the command's; 127 when it is not found, 126 when it cannot be run.
    """
    from publishers.wrapper.run import Options, run_command

    options = Options(project, name, run_id, console, system, verbose)
    sys.exit(die_as(run_command(command, options)))
