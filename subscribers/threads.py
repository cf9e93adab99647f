"""Threads for the blocking calls of a tracker's client."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

__all__ = ["CallThreads"]

_T = TypeVar("_T")
_Client = TypeVar("_Client")

_CALL_THREADS = 8
"""Calls at a time: more runs than that rarely have a batch in flight at the same moment."""

_UPLOAD_THREADS = 4
"""Uploads at a time. They have threads of their own: a large one must not hold up metrics."""


class CallThreads(ABC, Generic[_Client]):
    """Runs calls of a client in threads and translates their errors.

    Args:
        name: Of the tracker, for the names of the threads.
        translate: Makes a :class:`bus.errors.SinkError` of an error and what was being done.
    """

    def __init__(self, name: str, translate: Callable[[Exception, str], Exception]) -> None:
        self._translate = translate
        self._calls = ThreadPoolExecutor(_CALL_THREADS, f"{name}-call")
        self._uploads = ThreadPoolExecutor(_UPLOAD_THREADS, f"{name}-upload")

    @abstractmethod
    def client(self) -> _Client:
        """The client; called in a thread, before each call."""

    async def call(self, doing: str, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run ``function(client, *arguments)`` in a thread.

        Args:
            doing: What it does, for the message of an error.
            function: Blocks.
            arguments: For it.

        Raises:
            SinkError: What it raised, translated.
        """
        return await self._run(self._calls, doing, function, arguments)

    async def upload(self, doing: str, function: Callable[..., _T], *arguments: Any) -> _T:
        """As :meth:`call`, for what may take long."""
        return await self._run(self._uploads, doing, function, arguments)

    def close(self) -> None:
        """Drop what waits for a thread. Calls in flight end by themselves, at their timeout."""
        self._calls.shutdown(wait=False, cancel_futures=True)
        self._uploads.shutdown(wait=False, cancel_futures=True)

    async def _run(
        self,
        pool: ThreadPoolExecutor,
        doing: str,
        function: Callable[..., _T],
        arguments: tuple[Any, ...],
    ) -> _T:
        def work() -> _T:
            try:
                return function(self.client(), *arguments)
            except Exception as error:
                raise self._translate(error, doing) from error

        return await asyncio.get_running_loop().run_in_executor(pool, work)
