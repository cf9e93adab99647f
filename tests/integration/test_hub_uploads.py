"""Uploads of weights that break off, hang, are damaged, are large, or outlive their worker."""

from __future__ import annotations

import hashlib
import logging
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from bus.errors import (
    LogError,
    MarksMovedError,
    PermanentSinkError,
    RetryableSinkError,
    SinkError,
)
from bus.eventlog.aio import AsyncEventLog
from subscribers.hub.http import Times
from tests.fixtures.feed import marks_of
from tests.fixtures.hub import (
    Clock,
    HubServer,
    checkpoint,
    hub_run,
    make_hub_sink,
    stored_file,
    uploads_of,
    write,
)
from tests.fixtures.processes import until

MAP = "metrics/mAP50-95(B)"


@pytest.mark.parametrize("change", [b"", b"short", b"damaged" * 100_001])
async def test_a_damaged_blob_never_becomes_a_whole_upload(
    hub_server: HubServer, tmp_path: Path, change: bytes
) -> None:
    sink, feed = await hub_run(hub_server, tmp_path)
    event = checkpoint(feed, tmp_path, b"whole.." * 100_001, epoch=1)
    stored_file(event).write_bytes(change)
    with pytest.raises(SinkError, match=r"its checksum|bytes and not") as error:
        await write(sink, feed, [event])
    assert not isinstance(error.value, RetryableSinkError | PermanentSinkError)
    await until(lambda: all(one.status != 200 for one in hub_server.received("upload")))
    assert uploads_of(hub_server) == []
    await sink.close()


async def test_an_upload_that_breaks_off_is_sent_again_from_the_start(
    hub_server: HubServer, tmp_path: Path
) -> None:
    clock = Clock()
    sink, feed = await hub_run(hub_server, tmp_path, clock=clock)
    content = os.urandom(5_000_000)
    hub_server.fail("upload", drop_after_bytes=1_000_000, times=1)
    await write(sink, feed, [checkpoint(feed, tmp_path, content, epoch=1)])
    assert uploads_of(hub_server) == []
    clock.now += 10
    await write(sink, feed, [feed.metrics([MAP], range(1))])
    assert uploads_of(hub_server) == [("epoch", 1, False)]
    assert hub_server.models[0].uploads[0]["sha256"] == hashlib.sha256(content).hexdigest()
    await sink.close()


async def test_a_hub_that_takes_no_more_bytes_ends_the_upload(
    hub_server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = Times(idle_seconds=0.3, answer_seconds=0.3)
    sink, feed = await hub_run(hub_server, tmp_path, times=times)
    hub_server.fail("upload", is_hanging=True)
    await write(sink, feed, [checkpoint(feed, tmp_path, bytes(30_000_000), epoch=1)])
    assert "no answer in time" in caplog.text
    assert (sink.state(), uploads_of(hub_server)) == ({}, [])
    await sink.close()


async def test_metrics_that_hub_has_are_not_sent_again_with_a_final_model_that_fails(
    hub_server: HubServer, tmp_path: Path
) -> None:
    clock = Clock()
    sink, feed = await hub_run(hub_server, tmp_path, clock=clock)
    batch = [feed.metrics([MAP], range(1)), checkpoint(feed, tmp_path, is_final=True)]
    hub_server.fail("upload", is_answer_lost=True, times=1)
    with pytest.raises(RetryableSinkError):
        await sink.write(feed.ref, batch, marks_of(batch))
    clock.now += 2
    await sink.write(feed.ref, batch, marks_of(batch))
    assert len(hub_server.received("metrics")) == 1
    assert uploads_of(hub_server) == [("final", 0, 0.5)] * 2
    await sink.close()


async def test_a_worker_that_dies_between_upload_and_mark_uploads_once_more(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, feed = await hub_run(hub_server, tmp_path)
    event = checkpoint(feed, tmp_path, epoch=1)
    with monkeypatch.context() as patch:

        async def die(*_: object) -> bool:
            raise KeyboardInterrupt

        patch.setattr(AsyncEventLog, "swap_sink_state", die)
        with pytest.raises(KeyboardInterrupt):
            await write(sink, feed, [event])
    assert uploads_of(hub_server) == [("epoch", 1, False)]
    other = make_hub_sink(hub_server, tmp_path)
    assert not (await other.open_run(feed.ref)).is_applied(event.source, event.id)
    await write(other, feed, [event])
    first, second = hub_server.models[0].uploads
    assert first == second
    await sink.close()
    await other.close()


async def test_marks_that_cannot_be_kept_now_cost_no_second_upload(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, feed = await hub_run(hub_server, tmp_path)
    batch = [checkpoint(feed, tmp_path, epoch=1)]
    with monkeypatch.context() as patch:

        async def locked(*_: object) -> bool:
            raise LogError("database is locked", is_retryable=True)

        patch.setattr(AsyncEventLog, "swap_sink_state", locked)
        with pytest.raises(RetryableSinkError, match="locked"):
            await sink.write(feed.ref, batch, marks_of(batch))
    await sink.write(feed.ref, batch, marks_of(batch))
    assert uploads_of(hub_server) == [("epoch", 1, False)]
    await sink.close()


async def test_a_worker_that_was_overtaken_uploads_nothing(
    hub_server: HubServer, tmp_path: Path
) -> None:
    old, feed = await hub_run(hub_server, tmp_path)
    new = make_hub_sink(hub_server, tmp_path)
    await write(new, feed, [feed.metrics([MAP], range(1))])
    with pytest.raises(MarksMovedError):
        event = checkpoint(feed, tmp_path, epoch=1)
        await old.write(feed.ref, [event], marks_of([event]))
    assert uploads_of(hub_server) == []
    await old.close()
    await new.close()


async def test_an_upload_is_shown_in_the_log_and_in_the_state(
    hub_server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "subscribers.hub")
    sink, feed = await hub_run(hub_server, tmp_path)
    seen: list[dict[str, Any]] = []

    class Watching(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(sink.state())

    handler = Watching()
    logging.getLogger("subscribers.hub.progress").addHandler(handler)
    try:
        await write(sink, feed, [checkpoint(feed, tmp_path, bytes(10_000_000), epoch=1)])
    finally:
        logging.getLogger("subscribers.hub.progress").removeHandler(handler)
    lines = [r.message for r in caplog.records if r.name == "subscribers.hub.progress"]
    assert len(lines) == 10
    assert "run r1: last.pt: 100 % of 10.0 MB sent" in lines[-1]
    assert seen[0]["uploads"][0]["file"] == "last.pt"
    assert seen[0]["uploads"][0]["percent"] in range(10, 20)
    assert sink.state() == {}
    await sink.close()


async def test_a_large_file_is_uploaded_in_little_memory(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink, feed = await hub_run(hub_server, tmp_path)
    size = 256 * 1024 * 1024
    sparse = tmp_path / "last.pt"
    with sparse.open("wb") as file:
        file.truncate(size)
    event = checkpoint(feed, tmp_path, sparse, epoch=1)
    tracemalloc.start()
    try:
        await write(sink, feed, [event])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Of the sink and the stand-in together.
    assert peak < size / 16
    assert hub_server.models[0].uploads[0]["size"] == size
    await sink.close()
