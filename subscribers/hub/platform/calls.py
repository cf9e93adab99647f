"""What a batch asks of Platform: requests to make, in order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import orjson

from bus.events import Event
from subscribers.hub.platform.held import Curve

__all__ = ["Call", "Id", "checkpoint_key", "epoch_key", "event_key"]

_CHECKPOINT = "checkpoint"
"""Platform holds one file as the model of a run."""

Id = tuple[str, int]
"""Source and id of an event."""


@dataclass(slots=True)
class Call:
    """One event on Platform's wire.

    Attributes:
        event: Its name there.
        key: The same for the same request, whichever batch asks for it: a request that was made
            before a worker was killed is known by it.
        data: What it carries, but for what only Platform's answers say.
        origins: Events of this batch that it carries; empty when all were accepted before.
        checkpoint: The weights to upload first.
        curves: Plots to read from the artifact store and send along.
    """

    event: str
    key: str
    data: dict[str, Any]
    origins: set[Id] = field(default_factory=set)
    checkpoint: Event | None = None
    curves: list[Curve] = field(default_factory=list)

    @property
    def place(self) -> str:
        """Begins the keys of what a later request puts another in the place of."""
        if self.checkpoint is not None:
            return _CHECKPOINT
        is_replacing = self.event in {"epoch_end", "training_complete", "training_failed"}
        return self.key.rpartition(":")[0] if is_replacing else self.key


def event_key(event: Event) -> str:
    """The key of a request that one event asks for."""
    # The name of a source is long, and the keys of a whole batch are kept.
    return f"{_digest(event.source.encode())}:{event.id}"


def checkpoint_key(event: Event) -> str:
    """The key of telling of a checkpoint."""
    return f"{_CHECKPOINT}:{event_key(event)}"


def epoch_key(attempt: int, number: int, data: dict[str, Any]) -> str:
    """The key of an epoch: the same epoch with other values is another request."""
    raw = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    return f"{attempt}:{number}:{_digest(raw)}"


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]
