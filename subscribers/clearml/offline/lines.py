"""Events as lines of ``metrics.jsonl`` and ``log.jsonl``. Pure.

The text is ASCII: the importer reads it in whatever encoding its machine has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from bus.events import Event
from bus.kinds import Console
from subscribers.clearml.media import figure
from subscribers.clearml.names import event_key
from subscribers.clearml.offline.layout import Layout
from subscribers.clearml.plan import Picture
from subscribers.clearml.points import (
    NonFiniteNotes,
    event_of_point,
    points_of,
    to_ms,
)

__all__ = ["MAX_EVENTS", "console_events", "joined", "picture_event", "point_events"]

MAX_EVENTS = 500
"""Events of one line, which the importer sends in one call: the server writes as many at a time."""


def joined(events: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """Lines of arrays of events."""
    iterator = iter(events)
    while chunk := list(islice(iterator, MAX_EVENTS)):
        yield json.dumps(chunk, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def point_events(
    session: str, events: Iterable[Event], notes: NonFiniteNotes
) -> Iterator[dict[str, Any]]:
    """The scalars of a batch; those that ClearML cannot hold are noted."""
    for event in events:
        for point in notes.keep_storable(points_of(event)):
            yield event_of_point(session, point)


def picture_event(
    layout: Layout, picture: Picture, path: str, size: tuple[int, int] | None
) -> dict[str, Any]:
    """A picture as a debug sample, or as a plot that shows it.

    Args:
        layout: Of the run.
        picture: What and where.
        path: Of its file below ``data``.
        size: Width and height in pixels; None for what is no picture but a page, which becomes a
            debug sample in any case.
    """
    is_plot = picture.is_plot and size is not None
    event: dict[str, Any] = {
        "type": "plot" if is_plot else "training_debug_image",
        "task": layout.id,
        "timestamp": to_ms(picture.event.time),
        "iter": picture.iteration,
        "metric": picture.metric,
        "variant": picture.variant,
    }
    if not is_plot or size is None:
        return event | {"key": path, "url": path}
    key = event_key(picture.metric)
    keyed = {} if key is None else {"key": key}
    shown = figure(f"{picture.metric}/{picture.variant}", path, size)
    return event | {"plot_str": json.dumps(shown), **keyed}


def console_events(session: str, events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    """Console lines, one event each."""
    for event in events:
        assert isinstance(event.data, Console)
        worker = event.source.rpartition("/")[2]
        for line in event.data.lines:
            yield {
                "task": session,
                "timestamp": to_ms(event.time),
                "level": "info",
                "worker": worker,
                "msg": line,
            }
