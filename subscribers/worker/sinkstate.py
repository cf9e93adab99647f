"""What a sink has to show in the heartbeat, as far as a heartbeat can carry it."""

from __future__ import annotations

import logging
from typing import Any

import orjson

from bus.sinks import ReportsState, Sink

__all__ = ["MAX_STATE_BYTES", "SinkState"]

logger = logging.getLogger(__name__)

MAX_STATE_BYTES = 2048
"""As JSON. Heartbeats go to every member of the group once a second."""


class SinkState:
    """Asks a sink for its state (:class:`bus.sinks.ReportsState`), and trusts it with nothing."""

    def __init__(self, sink: Sink) -> None:
        self._name = sink.name
        self._sink = sink if isinstance(sink, ReportsState) else None
        self._has_warned = False

    def read(self) -> dict[str, Any]:
        """The state now; empty when there is none, or none that can be shown."""
        if self._sink is None:
            return {}
        try:
            raw = orjson.dumps(self._sink.state())
            state = orjson.loads(raw)
        except Exception as error:  # noqa: BLE001  # nothing to show must not cost the heartbeat
            return self._refuse(f"{type(error).__name__}: {error}")
        if not isinstance(state, dict):
            return self._refuse(f"{type(state).__name__} instead of dict")
        if len(raw) > MAX_STATE_BYTES:
            return self._refuse(f"{len(raw)} bytes, over {MAX_STATE_BYTES}")
        return state

    def _refuse(self, reason: str) -> dict[str, Any]:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("%s: its state is left out of the status: %s", self._name, reason)
        return {}
