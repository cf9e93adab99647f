"""Waiting on an event loop without losing a cancellation.

``asyncio.wait_for`` of Python 3.11 drops a cancellation that arrives in the moment in which what it
waits for is done (https://github.com/python/cpython/issues/86296); aiomqtt is built on it. A task
that missed its cancellation waits for ever, and whoever waits for its end with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

__all__ = ["end_tasks", "wait_for_event"]

_PATIENCE_SECONDS = 1.0


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, at most so long; whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, again until they have ended. Their errors are not raised."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=_PATIENCE_SECONDS)
        for task in done:
            if not task.cancelled():
                task.exception()  # else asyncio reports it as never retrieved
