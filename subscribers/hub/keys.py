"""API keys and addresses of the services, as the environment names them. Keys are never shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bus.config import read_variable
from bus.errors import ConfigError

__all__ = ["ApiKey", "read_address", "read_key"]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key and how it is sent.

    Attributes:
        value: The key itself; in no message and no repr.
        source: Where it comes from, for messages: the variable a person sets.
        header: The header that carries it.
        scheme: What stands before it there, such as ``Bearer``.
    """

    value: str = field(repr=False)
    source: str
    header: str
    scheme: str = ""

    def __post_init__(self) -> None:
        if not self.value or not self.value.isascii() or not self.value.isprintable():
            raise ConfigError(f"{self.source}: a key is printable ASCII without line breaks")

    def headers(self) -> dict[str, str]:
        """The header of a request."""
        return {self.header: f"{self.scheme} {self.value}".lstrip()}

    def hide(self, text: str) -> str:
        """A text that others wrote, without the key."""
        return text.replace(self.value, "…")

    def __str__(self) -> str:
        return f"the key of {self.source}"


def read_key(
    environ: Mapping[str, str], variable: str, header: str, scheme: str = ""
) -> ApiKey | None:
    """The key of a variable, or of the file that ``…_FILE`` names; None when neither is set.

    Raises:
        ConfigError: Both are set, the file cannot be read, or it holds no key.
    """
    value = read_variable(environ, variable)
    return None if value is None else ApiKey(value.strip(), variable, header, scheme)


def read_address(environ: Mapping[str, str], variable: str, default: str) -> str:
    """The base URL of a service, without a slash at its end.

    Raises:
        ConfigError: It is no http(s) URL of a host and a path.
    """
    text = (environ.get(variable) or default).rstrip("/")
    try:
        parts = urlsplit(text)
        is_sound = parts.scheme in {"http", "https"} and bool(parts.hostname)
        is_sound = is_sound and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        is_sound = False
    if not is_sound or parts.query or parts.fragment:
        raise ConfigError(f"{variable}: use https://host[:port][/path], without a password")
    return text
