"""Threads for the blocking calls of ClearML."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from subscribers.clearml.access import Access
from subscribers.clearml.api import Api
from subscribers.clearml.errors import translate

__all__ = ["Tracker"]

_T = TypeVar("_T")

_CALL_THREADS = 8
"""Calls at a time: more runs than that rarely have a batch in flight at the same moment."""

_UPLOAD_THREADS = 4
"""Uploads at a time. They have threads of their own: a large one must not hold up metrics."""


class Tracker:
    """Runs calls in threads and translates their errors."""

    def __init__(self, access: Access) -> None:
        self._api = Api(access)
        self._calls = ThreadPoolExecutor(_CALL_THREADS, "clearml-call")
        self._uploads = ThreadPoolExecutor(_UPLOAD_THREADS, "clearml-upload")

    async def call(self, doing: str, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run ``function(api, *arguments)`` in a thread.

        Raises:
            SinkError: What it raised, as :func:`subscribers.clearml.errors.translate` reads it.
        """
        return await self._run(self._calls, doing, function, arguments)

    async def upload(self, doing: str, function: Callable[..., _T], *arguments: Any) -> _T:
        """As :meth:`call`, for what may take long."""
        return await self._run(self._uploads, doing, function, arguments)

    def close(self) -> None:
        """Drop what waits for a thread. Calls in flight end by themselves, at their timeout."""
        self._calls.shutdown(wait=False, cancel_futures=True)
        self._uploads.shutdown(wait=False, cancel_futures=True)
        self._api.close()

    async def _run(
        self,
        pool: ThreadPoolExecutor,
        doing: str,
        function: Callable[..., _T],
        arguments: tuple[Any, ...],
    ) -> _T:
        def work() -> _T:
            try:
                return function(self._api, *arguments)
            except Exception as error:
                raise translate(error, doing) from error

        return await asyncio.get_running_loop().run_in_executor(pool, work)
