"""The limits of Platform's plan, held for the whole group and across restarts.

The counts are in table ``sink_state`` of the event log, in one value for all workers of the group:
the limits are those of the key, which all of them use. A request is counted before it is made,
whatever becomes of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from bus.errors import MarksMovedError, RetryableSinkError
from bus.sinks import RunRef
from subscribers.hub.platform.windows import Plan, Window
from subscribers.hub.state import RunRecord, StateStore

__all__ = ["PATIENCE_SECONDS", "Quota"]

PATIENCE_SECONDS = 10.0
"""A shorter wait is waited here; for a longer one the run gives its place to others."""

_PLACE = RunRef("", "platform requests", "")
"""No run has an empty project: the value cannot be taken for one of a run."""


class Quota:
    """Counts requests.

    Args:
        store: Where they are counted.
        plan: What is allowed.
        clock: Unix seconds.
        sleep: Waits.
    """

    def __init__(
        self,
        store: StateStore,
        plan: Plan,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._windows = {"minute": Window.minute(plan), "day": Window.day(plan)}
        self._record: RunRecord | None = None
        self._lock = asyncio.Lock()

    async def take(self) -> None:
        """Wait until a request may be made, and count it.

        Raises:
            RetryableSinkError: That is more than :data:`PATIENCE_SECONDS` away, or it cannot be
                counted now.
        """
        async with self._lock:
            while not await self._try():
                pass

    def used(self) -> dict[str, str]:
        """For people: how much of each limit is used, as this worker saw it last."""
        now = self._clock()
        return {
            f"requests_of_the_{name}": f"{window.used(now)} of {window.limit}"
            for name, window in self._windows.items()
        }

    async def _try(self) -> bool:
        """Count a request, or wait for a while; whether it is counted."""
        if self._record is None:
            self._record = await self._store.read(_PLACE)
            for name, window in self._windows.items():
                window.counts = _read_counts(self._record.fields.get(name))
        now = self._clock()
        name, wait = max(
            ((name, window.wait_seconds(now)) for name, window in self._windows.items()),
            key=lambda pair: pair[1],
        )
        if wait > PATIENCE_SECONDS:
            text = f"Ultralytics Platform allows {self._windows[name].limit} requests a {name}"
            # Another worker may have counted what is gone by then.
            self._record = None
            raise RetryableSinkError(f"{text}: the next in {wait:.0f} s", wait)
        if wait > 0:
            await self._sleep(wait)
            return False
        for window in self._windows.values():
            window.take(now)
        return await self._save()

    async def _save(self) -> bool:
        fields = {n: msgspec.to_builtins(w.counts, str_keys=True) for n, w in self._windows.items()}
        record, self._record = self._record, None
        assert record is not None
        try:
            await self._store.save(_PLACE, record, **fields)
        except MarksMovedError:
            return False  # another worker was faster: read again
        self._record = record
        return True


def _read_counts(fields: Any) -> dict[int, int]:
    try:
        return msgspec.convert(fields or {}, dict[int, int], strict=False)
    except msgspec.ValidationError:
        return {}
