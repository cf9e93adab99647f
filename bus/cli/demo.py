"""``trainbus demo``."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from bus.broker import EngineName
from bus.cli.common import FAILED, JsonOption, print_json, say
from bus.errors import ConfigError

__all__ = ["demo"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells give it."""

_NEEDED = ("mlflow", "sqlalchemy", "sklearn", "matplotlib", "PIL")


def demo(
    folder: Annotated[
        Path, typer.Option(help="Folder of everything it writes; emptied at the next demo.")
    ] = Path("trainbus-demo"),
    epochs: Annotated[int, typer.Option(min=2, help="How long to train.")] = 40,
    engine: Annotated[
        EngineName, typer.Option(help="Broker program; auto takes Mosquitto when it is there.")
    ] = "auto",
    has_hub: Annotated[
        bool,
        typer.Option("--with-hub", help="Deliver to a stand-in of Ultralytics HUB too."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train for real on two simulated nodes, through the whole bus, with a receipt at the end."""
    from bus.demo import DemoOptions, play
    from bus.demo.screen import Screen

    needed = (*_NEEDED, "aiohttp") if has_hub else _NEEDED
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the demo needs {', '.join(missing)}: pip install 'trainbus[demo]'")
    try:
        with Screen() as screen:
            stage, receipt = play(DemoOptions(folder, epochs, engine, has_hub), os.environ, screen)
    except KeyboardInterrupt:
        say("stopped; every process of the demo has ended")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(receipt)
    else:
        typer.echo(stage.receipt_text.read_text("utf-8"))
        typer.echo(
            f"See it in MLflow:\n  {stage.ui_command}"
            f"\nBring it into a ClearML server:\n  {stage.import_command()}"
        )
    if not receipt["complete"]:
        raise typer.Exit(FAILED)
