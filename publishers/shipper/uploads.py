"""Uploads of snapshots to the artifact store, beside everything else.

An upload is tried until it works: a store that is away for an hour costs nothing but delay. It
runs in threads of its own, so that metrics never wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bus.artifacts import ArtifactStore
from bus.errors import JournalError
from bus.retry import Backoff, RetryPolicy
from bus.waiting import end_tasks
from publishers.shipper.cutter import PendingBlob
from publishers.shipper.source import JournalSource

__all__ = ["Uploads"]

logger = logging.getLogger(__name__)

THREADS = 2
_RETRY = RetryPolicy(initial_seconds=0.5, cap_seconds=30.0)


class Uploads:
    """Uploads under way.

    Args:
        make_store: Called in a thread, again until it works: the store may be away.
        on_done: Called on the event loop after each upload that has ended.
    """

    def __init__(
        self,
        make_store: Callable[[], ArtifactStore],
        on_done: Callable[[], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._make_store = make_store
        self._store: ArtifactStore | None = None
        self._on_done = on_done
        self._sleep = sleep
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")
        self._tasks: set[asyncio.Task[None]] = set()
        self._warned = ""

    def start(self, source: JournalSource, blob: PendingBlob) -> None:
        """Upload the bytes of a record; its event is planned once they are there."""
        task = asyncio.create_task(self._upload(source, blob))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def under_way(self) -> int:
        """Uploads that have not ended."""
        return len(self._tasks)

    async def close(self) -> None:
        """Give up what is under way; the next shipper begins anew."""
        await end_tasks(self._tasks)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _upload(self, source: JournalSource, blob: PendingBlob) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(_RETRY)
        while True:
            try:
                described, dataref = await loop.run_in_executor(self._pool, self._put, source, blob)
                source.uploaded(blob, described, dataref)
                break
            except (FileNotFoundError, JournalError) as error:
                logger.warning("run %s: an artifact is gone: %s", source.run, error)
                source.uploaded(blob, None, None)
                break
            except Exception as error:  # noqa: BLE001  # a store of any make, or its package missing
                # Whatever it is: the end of the run waits for this, and must not wait in silence.
                if str(error) != self._warned:
                    self._warned = str(error)
                    logger.warning("run %s: upload will be tried again: %s", source.run, error)
                await self._sleep(backoff.next_seconds())
        self._on_done()

    def _put(self, source: JournalSource, blob: PendingBlob) -> tuple[dict[str, Any], str]:
        path = source.blob_path(blob)
        if not path.exists():
            raise FileNotFoundError(str(path))
        if self._store is None:
            self._store = self._make_store()
        is_folder = path.is_dir()
        stored = self._store.put_folder(path) if is_folder else self._store.put_file(path)
        described = {
            "name": str(blob.record["blob"]["name"]),
            "size": stored.size,
            "sha256": stored.sha256,
            "is_folder": is_folder,
        }
        return described, stored.url
