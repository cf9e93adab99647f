"""The clearml sink: live when there are keys for a server, else offline into session folders."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from bus.config import Settings
from bus.errors import ConfigError
from bus.sinks import Sink
from subscribers.clearml.access import choose

__all__ = ["create"]

_log = logging.getLogger(__name__)


def create(settings: Settings, environ: Mapping[str, str]) -> Sink:
    """Make the sink, and say once which one and why.

    Raises:
        ConfigError: Keys are given by half, ``TRAINBUS_CLEARML`` makes no sense, or the package
            clearml is not installed.
    """
    try:
        choice = choose(environ)
        if choice.access is not None:
            # Here, because clearml takes a second to import, and offline does without it.
            from subscribers.clearml.live import LiveSink

            _log.info("clearml: live at %s: %s", choice.access, choice.why)
            return LiveSink(choice.access)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"sink 'clearml' needs {error.name} to reach a server: pip install 'trainbus[clearml]'"
        ) from error
    from subscribers.clearml.offline.sink import OfflineSink

    sink = OfflineSink.from_environment(settings, environ)
    _log.info("clearml: offline in %s: %s", sink.root, choice.why)
    return sink
