"""Which broker program there is on this machine."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bus.broker.settings import mosquitto_settings, nats_settings
from bus.errors import ConfigError

__all__ = ["Engine", "EngineName", "find_engine"]

EngineName = Literal["auto", "mosquitto", "nats"]

_HOW_TO_GET = {
    "mosquitto": "apt install mosquitto",
    "nats": "pip install 'trainbus[broker]'",
}

_SYSTEM_FOLDER = "/usr/sbin"
"""Where Debian installs Mosquitto: on the PATH of root alone."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A broker program and how it is told what to do.

    Attributes:
        program: Path of the executable.
        settings: Makes the text of the settings file from the port and the data folder.
    """

    name: Literal["mosquitto", "nats"]
    program: Path
    settings: Callable[[int, Path], str]

    def command(self, settings_file: Path) -> list[str]:
        """The command line that runs it in the foreground."""
        return [str(self.program), "-c", str(settings_file)]


def find_engine(name: EngineName = "auto", environ: Mapping[str, str] | None = None) -> Engine:
    """Find the broker program: Mosquitto when it is there, else the NATS server.

    Args:
        name: ``mosquitto`` or ``nats`` for that one only.
        environ: Where ``PATH`` is read; the environment of this process by default.

    Raises:
        ConfigError: It is not installed, or ``name`` is none of the three words.
    """
    path = (os.environ if environ is None else environ).get("PATH", os.defpath)
    if name not in {"auto", *_HOW_TO_GET}:
        raise ConfigError(f"no broker engine {name!r}: use auto, mosquitto or nats")
    if name in {"auto", "mosquitto"} and (program := _find_mosquitto(path)):
        return Engine("mosquitto", program, _mosquitto_settings)
    if name in {"auto", "nats"} and (program := _find_nats(path)):
        return Engine("nats", program, nats_settings)
    wanted = [name] if name in _HOW_TO_GET else list(_HOW_TO_GET)
    raise ConfigError(
        f"no broker program found ({' or '.join(wanted)}); to get one: "
        + ", or ".join(_HOW_TO_GET[one] for one in wanted)
    )


def _mosquitto_settings(port: int, data: Path) -> str:
    return mosquitto_settings(port, data, is_root=os.geteuid() == 0)


def _find_mosquitto(path: str) -> Path | None:
    found = shutil.which("mosquitto", path=f"{path}{os.pathsep}{_SYSTEM_FOLDER}")
    return Path(found) if found else None


def _find_nats(path: str) -> Path | None:
    # The wheel's program first: the one of a distribution may be years older.
    scripts = sysconfig.get_path("scripts")
    found = shutil.which("nats-server", path=f"{scripts}{os.pathsep}{path}")
    return Path(found) if found else None
