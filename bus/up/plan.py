"""Which parts ``trainbus up`` starts, decided from the settings and the environment. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bus.config import Settings
from bus.errors import ConfigError
from bus.topics import LOG_GROUP

__all__ = ["CONFIGURING", "Part", "configured_sinks", "plan_parts"]

CONFIGURING = {
    "mlflow": ("MLFLOW_TRACKING_URI",),
    "clearml": (
        "CLEARML_API_ACCESS_KEY",
        "CLEARML_API_HOST",
        "CLEARML_CONFIG_FILE",
        "TRAINBUS_CLEARML",
        "TRAINBUS_CLEARML_FOLDER",
    ),
    "hub": ("HUB_API_KEY", "ULTRALYTICS_API_KEY"),
}
"""Per sink, the variables of which one says that it is wanted; each also as ``…_FILE``."""

_DEFAULT_SINK = "mlflow"
"""Without any word: MLflow needs no server, its file is in the data folder."""


@dataclass(frozen=True, slots=True)
class Part:
    """One process.

    Attributes:
        name: For people; short, it stands before each line the part prints.
        arguments: Of ``trainbus``.
        is_broker: The others need it: it starts first and ends last.
    """

    name: str
    arguments: tuple[str, ...]
    is_broker: bool = False


def configured_sinks(environ: Mapping[str, str], installed: Sequence[str]) -> list[str]:
    """The sinks that the environment speaks of; MLflow's file when it speaks of none.

    Args:
        environ: The environment.
        installed: Names of all installed sinks.

    Raises:
        ConfigError: There is nothing to start.
    """
    found = [
        sink
        for sink in installed
        if any(
            environ.get(name) or environ.get(f"{name}_FILE") for name in CONFIGURING.get(sink, ())
        )
    ]
    if found:
        return found
    if _DEFAULT_SINK in installed:
        return [_DEFAULT_SINK]
    raise ConfigError("no sink is configured: name one with --sink")


def plan_parts(settings: Settings, sinks: Sequence[str], has_broker: bool) -> list[Part]:
    """The processes to start, in their order.

    Args:
        settings: Where the broker is to be.
        sinks: Names of sinks; the event log's worker comes of itself.
        has_broker: There is one already.
    """
    parts = []
    if not has_broker:
        parts.append(Part("broker", ("broker", "--port", str(settings.broker.port)), True))
    names = dict.fromkeys((LOG_GROUP, *sinks))
    return parts + [Part(name, ("worker", name)) for name in names]
