"""Blobs of the artifact store as streams: what an upload reads, in constant memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator

from bus.artifacts import check_file, read_chunks
from bus.errors import PermanentSinkError, RetryableSinkError, SinkError, StoreError
from bus.kinds import Blob

__all__ = ["CHUNK_BYTES", "check_is_file", "check_is_there", "stream"]

CHUNK_BYTES = 256 * 1024


def check_is_file(blob: Blob, service: str) -> None:
    """Refuse a folder: the services take one file, and its readers would not know an archive.

    Raises:
        PermanentSinkError: It is a folder.
    """
    if blob.is_folder:
        raise PermanentSinkError(
            f"{blob.name} is a folder: {service} takes a checkpoint of one file"
        )


async def check_is_there(dataref: str, blob: Blob) -> None:
    """Refuse what could not be uploaded later, as long as its event can be a dead letter.

    Raises:
        SinkError: As :func:`stream`.
    """
    try:
        await asyncio.to_thread(check_file, dataref, blob)
    except StoreError as error:
        raise _sink_error(error) from error


async def stream(
    dataref: str, blob: Blob, chunk_bytes: int = CHUNK_BYTES
) -> AsyncGenerator[bytes, None]:
    """The bytes of a file, read in threads; checked before the last of them comes.

    Raises:
        PermanentSinkError: The store no longer has it.
        RetryableSinkError: The store cannot be read now.
        SinkError: The bytes are not those of the event: a transfer cut short, or damage for ever.
    """
    reader = _Reader(dataref, blob, chunk_bytes)
    try:
        while True:
            try:
                chunk = await asyncio.to_thread(reader.read)
            except StoreError as error:
                raise _sink_error(error) from error
            if chunk is None:
                return
            yield chunk
    finally:
        await asyncio.shield(asyncio.to_thread(reader.close))


class _Reader:
    """A blob that is read in threads. Closing waits for a read whose reader was cancelled."""

    def __init__(self, dataref: str, blob: Blob, chunk_bytes: int) -> None:
        self._chunks = read_chunks(dataref, blob, chunk_bytes)
        self._lock = threading.Lock()

    def read(self) -> bytes | None:
        with self._lock:
            return next(self._chunks, None)

    def close(self) -> None:
        with self._lock:
            self._chunks.close()


def _sink_error(error: StoreError) -> SinkError:
    if error.is_missing:
        return PermanentSinkError(f"{error}; the artifact store no longer has it")
    return SinkError(str(error)) if error.is_damaged else RetryableSinkError(str(error))
