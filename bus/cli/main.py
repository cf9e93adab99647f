"""The ``trainbus`` command: loads each command by its entry point, when it is asked for.

A command is an entry point in the group ``trainbus.commands``: a function, or a
:class:`typer.Typer` with commands of its own. ``trainbus --help`` loads all of them, so a command's
module imports what is heavy (a database, a tracker, a plotting library) inside its functions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bus._version import __version__
from bus.cli.common import FAILED, USAGE, say
from bus.errors import ConfigError, TrainbusError

__all__ = ["main"]

_GROUP = "trainbus.commands"

_OURS = {"bus", "publishers", "subscribers"}

_EXTRAS = {
    "PIL": "demo",
    "matplotlib": "demo",
    "mlflow": "mlflow",
    "psycopg": "log",
    "pyarrow": "parquet",
    "sklearn": "demo",
    "sqlalchemy": "log",
}
"""Which extra brings a module that a command may lack."""


class _Commands(TyperGroup):
    """The commands that are installed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return sorted({entry.name for entry in entry_points(group=_GROUP)})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load one; None when there is none of this name."""
        entries = list(entry_points(group=_GROUP, name=cmd_name))
        if not entries:
            return None
        try:
            return _load(entries[0])
        except ModuleNotFoundError as error:
            return _unavailable(cmd_name, _what_to_install(error.name or ""))
        except ConfigError as error:
            return _unavailable(cmd_name, str(error))


def _load(entry: EntryPoint) -> Any:
    loaded = entry.load()
    if not isinstance(loaded, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(entry.name)(loaded)
        loaded = app
    command = typer.main.get_command(loaded)
    command.name = entry.name
    return command


def _what_to_install(module: str) -> str:
    package = module.partition(".")[0]
    if package in _OURS:
        return f"{module} is missing: install trainbus again"
    wanted = f"'trainbus[{_EXTRAS[package]}]'" if package in _EXTRAS else package
    return f"it needs {package}: pip install {wanted}"


def _unavailable(name: str, reason: str) -> Any:
    """A command that only says what it lacks; the others are not to suffer."""
    message = f"trainbus {name} cannot be used here: {reason}"

    def explain() -> None:
        raise ConfigError(message)

    app = typer.Typer(add_completion=False)
    app.command(
        name,
        help=f"(not available: {reason})",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(explain)
    return typer.main.get_command(app)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"trainbus {__version__}")
        raise typer.Exit


_app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="An asynchronous event bus between model training and experiment trackers.",
)


@_app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Holds the options of ``trainbus`` itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong arguments or settings."""
    command = typer.main.get_command(_app)
    try:
        command.main(None if arguments is None else list(arguments), prog_name="trainbus")
    except ConfigError as error:
        _end(error, USAGE)
    except TrainbusError as error:
        _end(error, FAILED)


def _end(error: TrainbusError, status: int) -> None:
    say(f"trainbus: {' '.join(str(error).split())}")
    sys.exit(status)
