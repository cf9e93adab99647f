"""``trainbus up``."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bus.cli.common import say
from bus.config import BrokerAddress, Settings
from bus.errors import ConfigError

if TYPE_CHECKING:
    from bus.up.plan import Part

__all__ = ["up"]

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red")


def up(
    sink: Annotated[
        list[str] | None,
        typer.Option(
            "--sink",
            help="A sink to serve; may be repeated. By default those that are configured, "
            "and MLflow's file when none is.",
        ),
    ] = None,
) -> None:
    """Serve a bus on this machine: broker, event log and sinks, until Ctrl-C."""
    from bus.sinks import sink_names
    from bus.up.plan import configured_sinks, plan_parts

    settings = Settings.from_environment()
    installed = sink_names()
    unknown = [name for name in sink or () if name not in installed]
    if unknown:
        raise ConfigError(f"no sink {unknown[0]!r}; installed: {', '.join(installed)}")
    sinks = sink or configured_sinks(os.environ, installed)
    # Only a plain broker on this machine can be started here; any other is the user's own.
    is_ours = settings.broker.is_local and not settings.broker.is_tls
    is_ours = is_ours and settings.broker.username is None
    has_broker = not is_ours or _answers(settings.broker)
    if has_broker:
        say(f"using the broker at {settings.broker}")
    parts = plan_parts(settings, sinks, has_broker)
    say(f"starting {', '.join(part.name for part in parts)}; data folder {settings.home}")
    asyncio.run(_serve(settings.broker, parts))


def _answers(address: BrokerAddress) -> bool:
    from bus.broker.probe import answers_mqtt

    return answers_mqtt(address.host, address.port)


async def _serve(address: BrokerAddress, parts: Sequence[Part]) -> None:
    from bus.up.supervisor import Supervisor

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Under nohup a hangup is ignored, and stays so.
        if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):
            loop.add_signal_handler(number, stop.set)
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    await Supervisor([_program()], environ, _Lines(parts).show, lambda: _answers(address)).run(
        parts, stop
    )
    say("all parts have ended")


def _program() -> str:
    """The ``trainbus`` of this installation, whatever PATH says."""
    return str(Path(sysconfig.get_path("scripts")) / "trainbus")


class _Lines:
    """Lines of all parts on one screen, each behind the name of its part."""

    def __init__(self, parts: Sequence[Part]) -> None:
        from rich.console import Console

        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._width = max(len(part.name) for part in parts)
        colours = itertools.cycle(_COLOURS)
        self._styles = {part.name: next(colours) for part in parts}

    def show(self, name: str, line: str) -> None:
        from rich.text import Text

        head = Text(f"{name:<{self._width}} | ", style=self._styles[name])
        self._console.print(head.append(Text(line, style="default")))
