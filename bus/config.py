"""Settings: what the environment says, checked once.

Every secret-bearing variable can also be given as ``NAME_FILE``, the path of a file that holds the
value, as container platforms mount secrets.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bus.errors import ConfigError, EventError
from bus.topics import Topics

__all__ = ["BrokerAddress", "Settings", "read_variable"]

_PORTS = {"mqtt": 1883, "mqtts": 8883}


def read_variable(environ: Mapping[str, str], name: str) -> str | None:
    """The value of a variable, or what the file named by ``NAME_FILE`` holds; None when unset.

    Raises:
        ConfigError: Both are set, or the file cannot be read.
    """
    value, path = environ.get(name) or None, environ.get(f"{name}_FILE") or None
    if path is None:
        return value
    if value is not None:
        raise ConfigError(f"{name} and {name}_FILE are both set: keep one")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}_FILE: cannot read {path}: {error}") from error


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the MQTT broker is and how to enter."""

    host: str
    port: int
    is_tls: bool = False
    username: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, url: str) -> BrokerAddress:
        """Read ``mqtt://[user:password@]host[:port]`` or ``mqtts://…``.

        Raises:
            ConfigError: It is neither.
        """
        example = "use mqtt://[user:password@]host:port or mqtts://…"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # The error would quote what stands in the place of the port: part of a password.
            raise ConfigError(f"broker {_redact(url)!r} is malformed: {example}") from None
        if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/"):
            raise ConfigError(f"broker {_redact(url)!r} is no address: {example}")
        return cls(
            host=parts.hostname,
            port=port or _PORTS[parts.scheme],
            is_tls=parts.scheme == "mqtts",
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )

    @property
    def is_local(self) -> bool:
        """The broker runs on this machine, by its name."""
        return self.host in {"localhost", "::1"} or self.host.startswith("127.")

    def __str__(self) -> str:
        scheme = "mqtts" if self.is_tls else "mqtt"
        return f"{scheme}://{self.host}:{self.port}"


def _redact(url: str) -> str:
    """The address without its password, for messages."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:…@", url)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a command or a run takes from its surroundings."""

    broker: BrokerAddress
    log: str | None
    store: str
    spool: Path
    home: Path
    prefix: str = "trainbus/v1"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the ``TRAINBUS_*`` variables, with their defaults.

        Raises:
            ConfigError: A value is malformed; the message names the variable.
        """
        environ = os.environ if environ is None else environ
        home = Path(environ.get("TRAINBUS_HOME") or _state_folder(environ)).expanduser().absolute()
        prefix = environ.get("TRAINBUS_PREFIX") or "trainbus/v1"
        try:
            Topics(prefix)
        except EventError as error:
            raise ConfigError(f"TRAINBUS_PREFIX: {error.reason}") from error
        broker = read_variable(environ, "TRAINBUS_BROKER") or "mqtt://localhost:1883"
        # A home directory on a network share is seen by many hosts: the spool carries the name.
        spool = environ.get("TRAINBUS_SPOOL") or home / "spool" / (socket.gethostname() or "node")
        return cls(
            broker=BrokerAddress.parse(broker),
            log=read_variable(environ, "TRAINBUS_LOG") or f"sqlite:///{home / 'log.db'}",
            store=environ.get("TRAINBUS_STORE") or (home / "store").as_uri(),
            spool=Path(spool).expanduser().absolute(),
            home=home,
            prefix=prefix,
        )

    @property
    def topics(self) -> Topics:
        """The topics below the prefix."""
        return Topics(self.prefix)


def _state_folder(environ: Mapping[str, str]) -> Path:
    """$XDG_STATE_HOME/trainbus, by default ~/.local/state/trainbus."""
    base = environ.get("XDG_STATE_HOME")
    try:
        return Path(base if base else Path.home() / ".local" / "state") / "trainbus"
    except RuntimeError as error:
        raise ConfigError("this user has no home folder: set TRAINBUS_HOME") from error
