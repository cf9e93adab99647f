"""Threads for the blocking calls of ClearML."""

from __future__ import annotations

from subscribers.clearml.access import Access
from subscribers.clearml.api import Api
from subscribers.clearml.errors import translate
from subscribers.threads import CallThreads

__all__ = ["Tracker"]


class Tracker(CallThreads[Api]):
    """Runs calls of the API in threads and translates their errors."""

    def __init__(self, access: Access) -> None:
        super().__init__("clearml", translate)
        self._api = Api(access)

    def client(self) -> Api:
        """The API."""
        return self._api

    def close(self) -> None:
        """Drop what waits for a thread. Calls in flight end by themselves, at their timeout."""
        super().close()
        self._api.close()
