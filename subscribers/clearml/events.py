"""Events in ``events.add_batch``: cut into calls, and accepted or not. Takes the Api first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from threading import Event as Flag
from typing import Any, cast

import orjson

from bus.errors import PermanentSinkError, RetryableSinkError, SinkError
from bus.events import Event
from bus.kinds import Console
from subscribers.clearml.api import Api
from subscribers.clearml.errors import AnswerError
from subscribers.clearml.media import figure
from subscribers.clearml.names import event_key
from subscribers.clearml.plan import Picture
from subscribers.clearml.points import NonFiniteNotes, event_of_point, points_of, to_ms

__all__ = [
    "MAX_BYTES",
    "MAX_EVENTS",
    "chunks_of",
    "console_events",
    "event_of_picture",
    "scalar_events",
    "send",
]

MAX_EVENTS = 500
"""Events of one call: the server writes so many at a time. The SDK sends no more either."""

MAX_BYTES = 8 * 1024 * 1024
"""Of one call: servers take 15 MiB, and proxies often less."""


def scalar_events(task: str, events: Iterable[Event], notes: NonFiniteNotes) -> Iterator[bytes]:
    """The lines of all points of the events; those that cannot be stored are noted."""
    for event in events:
        for point in notes.keep_storable(points_of(event)):
            yield orjson.dumps(event_of_point(task, point))


def console_events(task: str, events: Iterable[Event]) -> Iterator[bytes]:
    """The lines of what processes printed."""
    for event in events:
        worker = event.source.rpartition("/")[2]
        for text in cast("Console", event.data).lines:
            line = {
                "type": "log",
                "task": task,
                "timestamp": to_ms(event.time),
                "level": "info",
                "worker": worker,
                "msg": text,
            }
            yield orjson.dumps(line)


def event_of_picture(
    task: str, picture: Picture, key: str, url: str, size: tuple[int, int] | None
) -> bytes:
    """The line of a debug sample, or of a plot that shows a picture.

    Args:
        task: ClearML's id of the task.
        picture: What it shows.
        key: The path on the file server. The server's id of a sample is made of it too, so that it
            must be the same each time.
        url: Where the picture is.
        size: Width and height; None for what is no picture, which becomes a debug sample.
    """
    line: dict[str, Any] = {
        "type": "training_debug_image",
        "task": task,
        "timestamp": to_ms(picture.event.time),
        "iter": picture.iteration,
        "metric": picture.metric,
        "variant": picture.variant,
    }
    if picture.is_plot and size is not None:
        plot_key = event_key(picture.metric)
        shown = figure(f"{picture.metric}/{picture.variant}", url, size)
        line |= {"type": "plot", "plot_str": json.dumps(shown)}
        if plot_key is not None:
            line["key"] = plot_key
    else:
        line |= {"key": key, "url": url}
    return orjson.dumps(line)


def send(api: Api, lines: Iterable[bytes], stop: Flag) -> int:
    """Send lines in as few calls as the limits allow; returns how many.

    Raises:
        PermanentSinkError: At least one was refused.
        RetryableSinkError: ``stop`` was set.
    """
    count = 0
    for chunk in chunks_of(lines):
        if stop.is_set():
            raise RetryableSinkError("the write was cancelled")
        _check(api.add_events(chunk), len(chunk))
        count += len(chunk)
    return count


def chunks_of(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Lines in calls of :data:`MAX_EVENTS` and :data:`MAX_BYTES` at the most.

    Raises:
        PermanentSinkError: One line alone is larger.
    """
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        if len(line) > MAX_BYTES:
            raise PermanentSinkError(f"an event of {len(line)} bytes is too large for ClearML")
        if len(chunk) == MAX_EVENTS or size + len(line) + 1 > MAX_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += len(line) + 1
    if chunk:
        yield chunk


def _check(answer: dict[str, Any], sent: int) -> None:
    """Events count as written only when the server says so of each."""
    added, errors = answer.get("added"), answer.get("errors")
    if not isinstance(added, int):
        raise AnswerError(200, 0, "events.add_batch: the answer does not say what was added")
    if added == sent and not errors:
        return
    reasons = "; ".join(
        f"{reason} ({n})" for reason, n in (answer.get("errors_info") or {}).items()
    )
    text = f"ClearML took {added} of {sent} events: {reasons[:500] or 'it does not say why'}"
    if not errors:
        raise SinkError(text)
    raise PermanentSinkError(text)
