"""Blobs of the artifact store as streams."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from bus.artifacts import ArtifactStore, read_chunks
from bus.errors import PermanentSinkError, RetryableSinkError, SinkError, StoreError
from bus.kinds import Blob
from subscribers.hub.blobs import check_is_file, stream


@dataclass
class Stored:
    """A blob in a store."""

    blob: Blob
    url: str
    path: Path


def store(folder: Path, content: bytes) -> Stored:
    path = folder / "last.pt"
    path.write_bytes(content)
    kept = ArtifactStore((folder / "store").as_uri()).put_file(path)
    blob = Blob("last.pt", kept.size, kept.sha256)
    return Stored(blob, kept.url, Path(kept.url.removeprefix("file://")))


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 10_500])
def test_a_file_comes_in_chunks(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    stored = store(tmp_path, content)
    chunks = list(read_chunks(stored.url, stored.blob, 1000))
    assert b"".join(chunks) == content
    assert all(len(chunk) == 1000 for chunk in chunks[:-1])


@pytest.mark.parametrize("change", [b"", b"x" * 1999, b"x" * 2000, b"y" * 2001, b"y" * 9000])
def test_the_last_chunk_of_a_damaged_file_never_comes(tmp_path: Path, change: bytes) -> None:
    stored = store(tmp_path, b"y" * 2000)
    stored.path.write_bytes(change)
    come = 0
    with pytest.raises(StoreError, match="not those of its checksum") as error:
        for chunk in read_chunks(stored.url, stored.blob, 1000):
            come += len(chunk)
    assert error.value.is_damaged
    assert come < 2000


async def test_a_stream_reads_what_it_is_asked_for_and_closes_the_file(tmp_path: Path) -> None:
    stored = store(tmp_path, os.urandom(10_000))
    async with aclosing(stream(stored.url, stored.blob, 1000)) as chunks:
        async for chunk in chunks:
            assert len(chunk) == 1000
            break
        assert await chunks.__anext__()
    assert str(stored.path) not in await asyncio.to_thread(_open_files)


async def test_what_the_store_lacks_becomes_what_the_worker_understands(tmp_path: Path) -> None:
    stored = store(tmp_path, b"x" * 5000)
    stored.path.write_bytes(b"z" * 5000)
    with pytest.raises(SinkError, match="checksum") as damaged:
        _ = [chunk async for chunk in stream(stored.url, stored.blob)]
    assert not isinstance(damaged.value, RetryableSinkError | PermanentSinkError)
    stored.path.unlink()
    with pytest.raises(PermanentSinkError, match="no longer has it"):
        _ = [chunk async for chunk in stream(stored.url, stored.blob)]
    nowhere = f"{(tmp_path / 'other').as_uri()}/00/{stored.blob.sha256}"
    with pytest.raises(RetryableSinkError, match="set TRAINBUS_STORE"):
        _ = [chunk async for chunk in stream(nowhere, stored.blob)]


def test_a_folder_is_no_checkpoint_of_one_file(tmp_path: Path) -> None:
    blob = store(tmp_path, b"x").blob
    check_is_file(blob, "HUB")
    with pytest.raises(PermanentSinkError, match="is a folder: HUB takes a checkpoint of one"):
        check_is_file(msgspec.structs.replace(blob, is_folder=True), "HUB")


def _open_files() -> set[str]:
    links = Path("/proc/self/fd").iterdir()
    return {str(link.resolve()) for link in links if link.exists()}
