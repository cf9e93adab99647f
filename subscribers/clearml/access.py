"""Whether ClearML can be reached, where, and with which keys: found as the SDK finds them.

In the order of the SDK: the variables (also ``TRAINS_…``, their former name), then the file that
``CLEARML_CONFIG_FILE`` names or else ``~/clearml.conf`` over ``~/trains.conf``. Each secret may
also be given as ``NAME_FILE``. The SDK itself would go on without one of the two keys and fail at
its first call; here that is a :class:`ConfigError` at the start.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bus.config import read_variable
from bus.errors import ConfigError

__all__ = ["Access", "Choice", "choose"]

_log = logging.getLogger(__name__)

_ACCESS_KEY = "CLEARML_API_ACCESS_KEY"
_SECRET_KEY = "CLEARML_API_SECRET_KEY"
_TOKEN = "CLEARML_AUTH_TOKEN"
_FORCE = "TRAINBUS_CLEARML"
_TIMEOUT = "TRAINBUS_CLEARML_TIMEOUT"

_KEYS_MISSING = (
    f"set CLEARML_API_HOST, {_ACCESS_KEY} and {_SECRET_KEY}, or write them to clearml.conf "
    "(clearml-init does)"
)


@dataclass(frozen=True, slots=True)
class Access:
    """Where a server is and how to enter. Empty hosts are for the SDK to derive.

    Attributes:
        api_host: The API server.
        files_host: The file server.
        web_host: Where a person looks.
        source: Where the keys were found, for the log.
        timeout_seconds: How long a server may stay silent.
    """

    api_host: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    files_host: str = ""
    web_host: str = ""
    source: str = ""
    timeout_seconds: float = 30.0

    def __str__(self) -> str:
        return self.api_host or "https://api.clear.ml"


@dataclass(frozen=True, slots=True)
class Choice:
    """Live with an access, or offline without; and why, in words."""

    access: Access | None
    why: str


def choose(environ: Mapping[str, str], home: Path | None = None) -> Choice:
    """Decide between live and offline.

    Args:
        environ: The environment.
        home: The folder of ``clearml.conf``; the user's own when None.

    Raises:
        ConfigError: Keys are given by half, live is asked for without keys, or a file is broken.
    """
    forced = environ.get(_FORCE, "").strip().lower()
    if forced not in {"", "live", "offline"}:
        raise ConfigError(f"{_FORCE}={forced!r}: use live or offline, or leave it out")
    if forced == "offline":
        return Choice(None, f"{_FORCE}=offline")
    if not forced and environ.get("CLEARML_OFFLINE_MODE", "").strip().lower() in {"1", "true"}:
        return Choice(None, "CLEARML_OFFLINE_MODE is set")
    access = _find(environ, home)
    if access is not None:
        return Choice(access, f"keys found in {access.source}")
    if forced == "live":
        raise ConfigError(f"{_FORCE}=live, and no keys for ClearML: {_KEYS_MISSING}")
    return Choice(None, "no keys for ClearML in the environment or clearml.conf")


def _find(environ: Mapping[str, str], home: Path | None) -> Access | None:
    file, config = _read_file(environ, home)
    access_key = _variable(environ, _ACCESS_KEY) or config.get("credentials.access_key", "")
    secret_key = _variable(environ, _SECRET_KEY) or config.get("credentials.secret_key", "")
    token = _variable(environ, _TOKEN)
    is_in_environ = token or _variable(environ, _ACCESS_KEY)
    source = "the environment" if is_in_environ else str(file)
    if not token and bool(access_key) != bool(secret_key):
        missing = _SECRET_KEY if access_key else _ACCESS_KEY
        raise ConfigError(f"keys for ClearML are given by half: {missing} is missing")
    if not token and not access_key:
        return None
    api_host = _variable(environ, "CLEARML_API_HOST") or config.get("api_server", "")
    files_host = _variable(environ, "CLEARML_FILES_HOST") or config.get("files_server", "")
    web_host = _variable(environ, "CLEARML_WEB_HOST") or config.get("web_server", "")
    return Access(
        api_host=api_host.rstrip("/"),
        access_key=access_key,
        secret_key=secret_key,
        token=token,
        files_host=files_host.rstrip("/"),
        web_host=web_host.rstrip("/"),
        source=source,
        timeout_seconds=_timeout(environ),
    )


def _variable(environ: Mapping[str, str], name: str) -> str:
    former = name.replace("CLEARML_", "TRAINS_", 1)
    return (read_variable(environ, name) or environ.get(former) or "").strip()


def _timeout(environ: Mapping[str, str]) -> float:
    text = environ.get(_TIMEOUT) or "30"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise ConfigError(f"{_TIMEOUT}={text!r}: give seconds, over 0 and up to 3600")
    return seconds


def _read_file(environ: Mapping[str, str], home: Path | None) -> tuple[Path | None, dict[str, str]]:
    """The section "api" of the files, flat; and the last file that was there."""
    named = environ.get("CLEARML_CONFIG_FILE") or environ.get("TRAINS_CONFIG_FILE")
    if named:
        files = [Path(named).expanduser()]
    else:
        try:
            home = home or Path.home()
        except RuntimeError:
            return None, {}
        files = [home / "trains.conf", home / "clearml.conf"]
    there = [file for file in files if file.is_file()]
    merged: dict[str, str] = {}
    for file in there:
        merged |= _api_section(file)
    return (there[-1] if there else None), merged


def _api_section(file: Path) -> dict[str, str]:
    # The SDK's own reader of HOCON. Here, because clearml takes a second to import.
    from clearml.utilities.pyhocon import ConfigFactory

    try:
        parse: Any = ConfigFactory.parse_file
        tree = parse(str(file))
        names = ("api_server", "host", "files_server", "web_server")
        keys = ("credentials.access_key", "credentials.secret_key")
        found = {name: tree.get(f"api.{name}", None) for name in (*names, *keys)}
    except Exception as error:  # its parser raises errors of several libraries
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{file}: cannot be read as a clearml.conf: {reason}") from error
    found["api_server"] = found["api_server"] or found.pop("host")
    return {name: str(value).strip() for name, value in found.items() if value}
