"""``trainbus demo``."""

from __future__ import annotations

import os
import subprocess
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
    as_json: JsonOption = False,
) -> None:
    """Train for real on two simulated nodes, through the whole bus, with a receipt at the end."""
    from bus.demo import DemoOptions, play
    from bus.demo.screen import Screen

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the demo needs {', '.join(missing)}: pip install 'trainbus[demo]'")
    try:
        with Screen() as screen:
            stage, receipt = play(DemoOptions(folder, epochs, engine), os.environ, screen)
    except KeyboardInterrupt:
        say("stopped; every process of the demo has ended")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(receipt)
    else:
        subprocess.run(
            stage.trainbus("verify", stage.run, "--sink", "mlflow"),
            env=stage.environment(os.environ),
            check=False,
        )
        typer.echo(f"\nSee it in MLflow:\n  {stage.ui_command}")
    if not receipt["complete"]:
        raise typer.Exit(FAILED)
