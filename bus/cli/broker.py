"""``trainbus broker``."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from bus.broker import EmbeddedBroker, EngineName
from bus.cli.common import say
from bus.config import Settings
from bus.errors import BrokerError

__all__ = ["broker"]

_POLL_SECONDS = 0.2
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def broker(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port on 127.0.0.1; 0 for a free one.")
    ] = 1883,
    engine: Annotated[
        EngineName, typer.Option(help="Broker program; auto takes Mosquitto when it is there.")
    ] = "auto",
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder of its data; by default broker in TRAINBUS_HOME."),
    ] = None,
) -> None:
    """Run a broker for this machine alone, until Ctrl-C."""
    server = EmbeddedBroker(
        folder or Settings.from_environment().home / "broker", engine, port or None
    )
    is_asked_to_stop = threading.Event()
    for number in _SIGNALS:
        # Under nohup a hangup is ignored, and stays so.
        if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):
            signal.signal(number, lambda *_: is_asked_to_stop.set())
    with server:
        say(
            f"{server.engine} listens on {server.address} (pid {server.pid}), log {server.log_file}"
        )
        while server.pid is not None:
            if is_asked_to_stop.wait(_POLL_SECONDS):
                return
        raise BrokerError(f"the broker ended by itself: {server.log_tail()}")
