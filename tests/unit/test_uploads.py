"""Uploads of snapshots, beside everything else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from bus.artifacts import ArtifactStore, StoredBlob
from bus.errors import ConfigError, JournalError, StoreError
from publishers.shipper.cutter import PendingBlob
from publishers.shipper.source import JournalSource
from publishers.shipper.uploads import Uploads
from tests.fixtures.processes import until


class Source:
    """What an upload needs of a journal."""

    run = "r1"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[tuple[Any, Any]] = []

    def blob_path(self, blob: PendingBlob) -> Path:
        name = str(blob.record["blob"]["path"])
        if name == "outside":
            raise JournalError("no snapshot of this journal")
        return self.folder / name

    def uploaded(self, blob: PendingBlob, described: Any, dataref: Any) -> None:
        self.done.append((described, dataref))


class Store:
    """A store that answers as it is told to."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def put_file(self, path: Path) -> StoredBlob:
        assert self.may_go_on.wait(10)
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        return StoredBlob("file:///store/x", 5, "0" * 64)

    def put_folder(self, path: Path) -> StoredBlob:
        return StoredBlob("file:///store/manifest", 7, "1" * 64)


class Bench:
    """Uploads with a clock of their own."""

    def __init__(self, folder: Path, make_store: Callable[[], Store]) -> None:
        self.source = Source(folder)
        self.waits: list[float] = []
        self.ended = 0
        self.uploads = Uploads(
            cast("Callable[[], ArtifactStore]", make_store), self._note, self._sleep
        )

    def _note(self) -> None:
        self.ended += 1

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    def start(self, name: str) -> None:
        blob = PendingBlob(1, 0, 10, {"blob": {"path": name, "name": "last.pt"}})
        self.uploads.start(cast("JournalSource", self.source), blob)


async def test_a_file_is_described_once_it_is_in_the_store(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"bytes")
    (tmp_path / "folder").mkdir()
    bench = Bench(tmp_path, Store)
    bench.start("a")
    await until(lambda: bench.ended == 1)
    bench.start("folder")
    await until(lambda: bench.ended == 2)
    described = {"name": "last.pt", "size": 5, "sha256": "0" * 64, "is_folder": False}
    whole = {"name": "last.pt", "size": 7, "sha256": "1" * 64, "is_folder": True}
    assert bench.source.done == [
        (described, "file:///store/x"),
        (whole, "file:///store/manifest"),
    ]
    await until(lambda: bench.uploads.under_way == 0)
    await bench.uploads.close()


async def test_a_store_that_is_away_costs_nothing_but_delay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a").write_bytes(b"bytes")
    answers = [StoreError("away"), StoreError("away"), OSError("reset"), ValueError("odd"), None]
    store = Store(*answers)
    bench = Bench(tmp_path, lambda: store)
    bench.start("a")
    await until(lambda: bench.ended == 1)
    assert len(bench.waits) == 4
    assert bench.source.done[0][1] == "file:///store/x"
    # Said once for each cause, not for each attempt.
    assert len(caplog.records) == 3
    await bench.uploads.close()


async def test_a_store_whose_package_is_missing_is_tried_again_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a").write_bytes(b"bytes")
    made = 0

    def make_store() -> Store:
        nonlocal made
        made += 1
        if made < 3:
            raise ConfigError("artifact store 's3://b' needs another package: pip install s3fs")
        return Store()

    bench = Bench(tmp_path, make_store)
    bench.start("a")
    await until(lambda: bench.ended == 1)
    assert bench.source.done[0][1] == "file:///store/x"
    assert "pip install s3fs" in caplog.text
    await bench.uploads.close()


@pytest.mark.parametrize("name", ["not-there", "outside"])
async def test_what_is_gone_is_given_up(tmp_path: Path, name: str) -> None:
    bench = Bench(tmp_path, Store)
    bench.start(name)
    await until(lambda: bench.ended == 1)
    assert bench.source.done == [(None, None)]
    assert bench.waits == []
    await bench.uploads.close()


async def test_closing_gives_up_what_is_under_way(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"bytes")
    store = Store()
    store.may_go_on.clear()
    bench = Bench(tmp_path, lambda: store)
    bench.start("a")
    await asyncio.sleep(0)
    assert bench.uploads.under_way == 1
    await bench.uploads.close()
    assert bench.source.done == []
    store.may_go_on.set()
