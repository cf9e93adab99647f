"""The hub sink: which service it writes to is decided by whose key is set."""

from __future__ import annotations

from collections.abc import Mapping

from bus.config import Settings
from bus.errors import ConfigError
from bus.sinks import Sink
from subscribers.hub.keys import read_key
from subscribers.hub.v1.sink import KEY_VARIABLE as HUB_KEY
from subscribers.hub.v1.sink import create_hub

__all__ = ["create"]

_PLATFORM_KEY = "ULTRALYTICS_API_KEY"
_CHOICE = "TRAINBUS_HUB_SERVICE"
_CHOICES = ("hub", "platform")


def create(settings: Settings, environ: Mapping[str, str]) -> Sink:
    """Make the sink of HUB v1 (``HUB_API_KEY``) or of Platform (``ULTRALYTICS_API_KEY``).

    Raises:
        ConfigError: No key is set, or both and no ``TRAINBUS_HUB_SERVICE``; or another variable is
            wrong.
    """
    if _service(environ) == "hub":
        return create_hub(settings, environ)
    from subscribers.hub.platform.sink import create_platform

    return create_platform(settings, environ)


def _service(environ: Mapping[str, str]) -> str:
    choice = environ.get(_CHOICE) or None
    if choice is not None and choice not in _CHOICES:
        raise ConfigError(f"{_CHOICE}={choice!r}: use hub or platform")
    has_hub = read_key(environ, HUB_KEY, "") is not None
    has_platform = read_key(environ, _PLATFORM_KEY, "") is not None
    if choice is not None:
        return choice
    if has_hub and has_platform:
        raise ConfigError(
            f"{HUB_KEY} and {_PLATFORM_KEY} are both set: set {_CHOICE}=hub or {_CHOICE}=platform"
        )
    if not (has_hub or has_platform):
        raise ConfigError(
            f"the hub sink needs a key: set {HUB_KEY} for Ultralytics HUB, or {_PLATFORM_KEY} for "
            "Ultralytics Platform"
        )
    return "hub" if has_hub else "platform"
