"""How a run names its model in HUB. Pure.

| form                              | means                                    |
|-----------------------------------|------------------------------------------|
| ``{web}/models/ID[?api_key=KEY]`` | a model that exists, with a key or not   |
| ``KEY_ID``                        | the same: 42 characters and 20           |
| ``ID``                            | a model that exists: 20 characters       |
| ``….pt``, ``….yaml``              | a new model that begins from this file   |

The forms are those of ``ultralytics.hub``. A key may stand in an identifier: it is used for that
model, and neither kept nor shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from bus.errors import ConfigError, PermanentSinkError
from subscribers.hub.keys import ApiKey

__all__ = ["KEY_HEADER", "Identifier", "parse_identifier"]

KEY_HEADER = "x-api-key"
_KEY_SOURCE = "the run's model identifier"

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_PLAIN = re.compile(r"(?:([A-Za-z0-9]{42})_)?([A-Za-z0-9]{20})", re.ASCII)
_LONG = re.compile(r"[A-Za-z0-9]{30,}", re.ASCII)
_FILES = (".pt", ".yaml")
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class Identifier:
    """A model as a run names it; exactly one of ``model`` and ``file`` is set.

    Attributes:
        model: Id of a model that exists.
        file: What a new model begins from.
        key: The key that stood in it.
    """

    model: str | None = None
    file: str | None = None
    key: ApiKey | None = None


def parse_identifier(value: object, web: str) -> Identifier:
    """Read an identifier.

    Args:
        value: ``options["hub"]["model"]`` of a run.
        web: The web root of HUB, such as ``https://hub.ultralytics.com``.

    Raises:
        PermanentSinkError: It is of no known form; no key is in the message.
    """
    text = value.strip() if isinstance(value, str) else ""
    if found := _PLAIN.fullmatch(text):
        return Identifier(model=found[2], key=_key(found[1]))
    if text.startswith(f"{web}/models/"):
        parts = urlsplit(text.removeprefix(f"{web}/models/"))
        model = parts.path.strip("/")
        if _ID.fullmatch(model):
            return Identifier(model=model, key=_key(*parse_qs(parts.query).get("api_key", [])[:1]))
    elif text.endswith(_FILES) and text.isprintable() and "?" not in text:
        return Identifier(file=text)
    raise PermanentSinkError(
        f"HUB model {_shown(value)!r} is none: use {web}/models/ID, KEY_ID, ID, or a .pt or .yaml "
        "file"
    )


def _key(value: str | None = None) -> ApiKey | None:
    try:
        return ApiKey(value, _KEY_SOURCE, KEY_HEADER) if value else None
    except ConfigError as error:
        raise PermanentSinkError(str(error)) from None


def _shown(value: object) -> str:
    """What may be shown of a wrong identifier: no query, and nothing that could be a key."""
    text = value if isinstance(value, str) else type(value).__name__
    text = text.partition("?")[0].rpartition("@")[2]
    return " ".join(_LONG.sub("…", text).split())[:_SHOWN_CHARACTERS]
