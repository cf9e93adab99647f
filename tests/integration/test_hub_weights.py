"""Weights on their way to HUB: which go, how they are sent, and how often they are tried."""

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
from bus.idranges import IdRanges
from bus.kinds import Summary
from subscribers.hub.http import Times
from subscribers.hub.v1.sink import HubSink
from tests.fixtures.feed import Feed, marks_of
from tests.fixtures.hub import (
    HubServer,
    begin,
    checkpoint,
    make_hub_sink,
    stored_file,
    write,
)
from tests.fixtures.processes import until

MAP = "metrics/mAP50-95(B)"


class Clock:
    """Unix seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def ready(server: HubServer, home: Path, **more: Any) -> tuple[HubSink, Feed]:
    """A sink with a run that has a model."""
    sink = make_hub_sink(server, home, **more)
    feed = Feed("r1", "digits")
    await write(sink, feed, begin(feed))
    return sink, feed


def told(server: HubServer) -> list[tuple[str, int, object]]:
    """What the uploads of the only model said: type, epoch, and isBest or map."""
    (model,) = server.models
    return [(one["type"], one["epoch"], one.get("isBest", one.get("map"))) for one in model.uploads]


async def test_a_checkpoint_arrives_whole_with_what_is_known_of_it(
    hub_server: HubServer, tmp_path: Path
) -> None:
    clock = Clock()
    sink, feed = await ready(hub_server, tmp_path, clock=clock)
    content = os.urandom(3_000_000)
    await write(sink, feed, [checkpoint(feed, tmp_path, content, epoch=4)])
    clock.now += 900
    await write(sink, feed, [checkpoint(feed, tmp_path, content[1:], epoch=5, is_best=True)])
    assert told(hub_server) == [("epoch", 4, False), ("epoch", 5, True)]
    (model,) = hub_server.models
    assert model.uploads[0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert (model.has_last_weights, model.told()["has_best_weights"]) == (True, True)
    await sink.close()


async def test_the_final_model_carries_the_last_quality_and_epoch(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink, feed = await ready(hub_server, tmp_path)
    await write(sink, feed, [feed.metrics([MAP], range(3))])
    await write(sink, feed, [feed.event("summary", Summary({MAP: 0.75}))])
    final = checkpoint(feed, tmp_path, is_final=True, is_best=True, fitness=0.1)
    await write(sink, feed, [final, feed.finished()])
    assert told(hub_server) == [("final", 2, 0.75)]
    assert hub_server.models[0].status == "trained"
    await sink.close()


async def test_without_metrics_the_final_model_carries_its_fitness(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink, feed = await ready(hub_server, tmp_path)
    await write(sink, feed, [checkpoint(feed, tmp_path, is_final=True, epoch=9, fitness=0.5)])
    assert told(hub_server) == [("final", 9, 0.5)]
    await sink.close()


async def superseded(sink: HubSink, feed: Feed) -> set[int]:
    """The ids that the receipt is told were left out."""
    contents = await sink.contents(feed.ref)
    assert contents is not None
    found = contents.marks.superseded.get(feed.source, IdRanges())
    return {number for first, last in found for number in range(first, last + 1)}


async def test_within_a_quarter_of_an_hour_only_the_latest_best_and_last_wait(
    hub_server: HubServer, tmp_path: Path
) -> None:
    clock = Clock()
    sink, feed = await ready(hub_server, tmp_path, clock=clock)
    events = [checkpoint(feed, tmp_path, epoch=n, is_best=n in {2, 4}) for n in range(8)]
    for event in events:
        await write(sink, feed, [event])
        clock.now += 100
    assert told(hub_server) == [("epoch", 0, False)]
    assert await superseded(sink, feed) == {events[n].id for n in (1, 2, 3, 5, 6)}
    # A new owner goes on with it, with the next event of any kind.
    other = make_hub_sink(hub_server, tmp_path, clock=clock)
    for epoch, (now, uploads) in enumerate([(1899, 1), (1900, 2), (2799, 2), (2800, 3), (9000, 3)]):
        clock.now = now
        await write(other, feed, [feed.metrics([MAP], range(epoch, epoch + 1))])
        assert len(told(hub_server)) == uploads
    assert told(hub_server)[1:] == [("epoch", 4, True), ("epoch", 7, False)]
    await sink.close()
    await other.close()


@pytest.mark.parametrize("status", ["failed", "completed"])
async def test_what_waits_is_uploaded_when_the_run_ends_without_a_final_model(
    hub_server: HubServer, tmp_path: Path, status: str
) -> None:
    sink, feed = await ready(hub_server, tmp_path)
    await write(sink, feed, [checkpoint(feed, tmp_path, epoch=0)])
    await write(sink, feed, [checkpoint(feed, tmp_path, epoch=1, is_best=True)])
    await write(sink, feed, [checkpoint(feed, tmp_path, epoch=2)])
    end = [feed.finished(status)]
    fault = hub_server.fail("upload", status=502)
    with pytest.raises(RetryableSinkError):
        await sink.write(feed.ref, end, marks_of(end))
    assert fault.hits == 1
    hub_server.stand_in.faults.clear()
    await write(sink, feed, end)
    assert told(hub_server) == [("epoch", 0, False), ("epoch", 1, True), ("epoch", 2, False)]
    assert await superseded(sink, feed) == set()
    await sink.close()


async def test_what_waits_makes_way_for_the_final_model(
    hub_server: HubServer, tmp_path: Path
) -> None:
    clock = Clock()
    sink, feed = await ready(hub_server, tmp_path, clock=clock)
    events = [checkpoint(feed, tmp_path, epoch=n, is_best=n == 1) for n in range(3)]
    for event in events:
        await write(sink, feed, [event])
    late = checkpoint(feed, tmp_path, epoch=3)
    final = checkpoint(feed, tmp_path, is_final=True, epoch=3)
    await write(sink, feed, [final])
    clock.now += 5000
    # A limit of the worker may let the final one overtake others.
    await write(sink, feed, [late], [feed.finished()])
    assert told(hub_server) == [("epoch", 0, False), ("final", 3, 0.0)]
    assert await superseded(sink, feed) == {one.id for one in (*events[1:], late)}
    await sink.close()


async def test_a_second_attempt_uploads_again_after_a_final_model(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink, feed = await ready(hub_server, tmp_path)
    await write(sink, feed, [checkpoint(feed, tmp_path, is_final=True, epoch=3)])
    again = Feed("r1", "digits", attempt=2)
    await write(sink, again, [again.started(), checkpoint(again, tmp_path, epoch=4)])
    assert told(hub_server) == [("final", 3, 0.0), ("epoch", 4, False)]
    await sink.close()


async def test_weights_that_wait_and_are_gone_are_given_up_and_cost_nothing_else(
    hub_server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    sink, feed = await ready(hub_server, tmp_path, clock=clock)
    for number, end in ((0, feed.metrics([MAP], range(1))), (1, feed.finished())):
        await write(sink, feed, [checkpoint(feed, tmp_path, b"first", epoch=0)])
        event = checkpoint(feed, tmp_path, f"gone {number}".encode(), epoch=1)
        await write(sink, feed, [event])
        stored_file(event).unlink()
        clock.now += 900
        await write(sink, feed, [end])
        assert caplog.text.count("weights given up") == number + 1
    await sink.close()


async def test_uploads_that_fail_hold_up_no_metrics_and_are_tried_less_and_less(
    hub_server: HubServer, tmp_path: Path
) -> None:
    clock = Clock()
    sink, feed = await ready(hub_server, tmp_path, clock=clock)
    fault = hub_server.fail("upload", status=503)
    await write(sink, feed, [checkpoint(feed, tmp_path, epoch=0)])
    tried = []
    for epoch in range(100):
        before = fault.hits
        await write(sink, feed, [feed.metrics([MAP], range(epoch, epoch + 1))])
        if fault.hits > before:
            tried.append(clock.now - 1000)
        clock.now += 10
    assert len(hub_server.models[0].metrics) == 100
    assert tried == [10, 30, 70, 150, 310, 630]
    hub_server.stand_in.faults.clear()
    clock.now += 900
    await write(sink, feed, [feed.metrics([MAP], range(100, 101))])
    assert told(hub_server) == [("epoch", 0, False)]
    await sink.close()


async def test_the_pause_that_hub_asks_for_before_an_upload_is_heeded(
    hub_server: HubServer, tmp_path: Path
) -> None:
    clock = Clock()
    sink, feed = await ready(hub_server, tmp_path, clock=clock)
    fault = hub_server.fail("upload", status=429, headers={"Retry-After": "120"}, times=1)
    await write(sink, feed, [checkpoint(feed, tmp_path, epoch=0)])
    clock.now += 119
    await write(sink, feed, [feed.metrics([MAP], range(1))])
    assert (fault.hits, told(hub_server)) == (1, [])
    clock.now += 1
    await write(sink, feed, [feed.metrics([MAP], range(1, 2))])
    assert told(hub_server) == [("epoch", 0, False)]
    await sink.close()


async def test_weights_of_other_ranks_stay_out(hub_server: HubServer, tmp_path: Path) -> None:
    sink, _ = await ready(hub_server, tmp_path)
    second = Feed("r1", "digits", rank=1)
    await write(sink, second, [second.started(), checkpoint(second, tmp_path, epoch=1)])
    assert told(hub_server) == []
    await sink.close()


async def test_a_folder_is_refused(hub_server: HubServer, tmp_path: Path) -> None:
    sink, feed = await ready(hub_server, tmp_path)
    folder = tmp_path / "sharded"
    folder.mkdir()
    (folder / "part-0").write_bytes(b"x")
    with pytest.raises(PermanentSinkError, match="is a folder: HUB takes"):
        await write(sink, feed, [checkpoint(feed, tmp_path, folder, epoch=1)])
    await sink.close()


async def test_a_blob_that_is_gone_is_given_up(hub_server: HubServer, tmp_path: Path) -> None:
    sink, feed = await ready(hub_server, tmp_path)
    event = checkpoint(feed, tmp_path, epoch=1)
    stored_file(event).unlink()
    with pytest.raises(PermanentSinkError, match="no longer has it"):
        await write(sink, feed, [event])
    assert told(hub_server) == []
    await sink.close()


@pytest.mark.parametrize("change", [b"", b"short", b"damaged" * 100_001])
async def test_a_damaged_blob_never_becomes_a_whole_upload(
    hub_server: HubServer, tmp_path: Path, change: bytes
) -> None:
    sink, feed = await ready(hub_server, tmp_path)
    event = checkpoint(feed, tmp_path, b"whole.." * 100_001, epoch=1)
    stored_file(event).write_bytes(change)
    with pytest.raises(SinkError, match="not those of its checksum") as error:
        await write(sink, feed, [event])
    assert not isinstance(error.value, RetryableSinkError | PermanentSinkError)
    await until(lambda: all(one.status != 200 for one in hub_server.received("upload")))
    assert told(hub_server) == []
    await sink.close()


async def test_an_upload_that_breaks_off_is_sent_again_from_the_start(
    hub_server: HubServer, tmp_path: Path
) -> None:
    clock = Clock()
    sink, feed = await ready(hub_server, tmp_path, clock=clock)
    content = os.urandom(5_000_000)
    hub_server.fail("upload", drop_after_bytes=1_000_000, times=1)
    await write(sink, feed, [checkpoint(feed, tmp_path, content, epoch=1)])
    assert told(hub_server) == []
    clock.now += 10
    await write(sink, feed, [feed.metrics([MAP], range(1))])
    assert told(hub_server) == [("epoch", 1, False)]
    assert hub_server.models[0].uploads[0]["sha256"] == hashlib.sha256(content).hexdigest()
    await sink.close()


async def test_a_hub_that_takes_no_more_bytes_ends_the_upload(
    hub_server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = Times(idle_seconds=0.3, answer_seconds=0.3)
    sink, feed = await ready(hub_server, tmp_path, times=times)
    hub_server.fail("upload", is_hanging=True)
    await write(sink, feed, [checkpoint(feed, tmp_path, bytes(30_000_000), epoch=1)])
    assert "no answer in time" in caplog.text
    assert (sink.state(), told(hub_server)) == ({}, [])
    await sink.close()


async def test_metrics_that_hub_has_are_not_sent_again_with_a_final_model_that_fails(
    hub_server: HubServer, tmp_path: Path
) -> None:
    clock = Clock()
    sink, feed = await ready(hub_server, tmp_path, clock=clock)
    batch = [feed.metrics([MAP], range(1)), checkpoint(feed, tmp_path, is_final=True)]
    hub_server.fail("upload", is_answer_lost=True, times=1)
    with pytest.raises(RetryableSinkError):
        await sink.write(feed.ref, batch, marks_of(batch))
    clock.now += 2
    await sink.write(feed.ref, batch, marks_of(batch))
    assert len(hub_server.received("metrics")) == 1
    assert told(hub_server) == [("final", 0, 0.5)] * 2
    await sink.close()


async def test_a_worker_that_dies_between_upload_and_mark_uploads_once_more(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, feed = await ready(hub_server, tmp_path)
    event = checkpoint(feed, tmp_path, epoch=1)
    with monkeypatch.context() as patch:

        async def die(*_: object) -> bool:
            raise KeyboardInterrupt

        patch.setattr(AsyncEventLog, "swap_sink_state", die)
        with pytest.raises(KeyboardInterrupt):
            await write(sink, feed, [event])
    assert told(hub_server) == [("epoch", 1, False)]
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
    sink, feed = await ready(hub_server, tmp_path)
    batch = [checkpoint(feed, tmp_path, epoch=1)]
    with monkeypatch.context() as patch:

        async def locked(*_: object) -> bool:
            raise LogError("database is locked", is_retryable=True)

        patch.setattr(AsyncEventLog, "swap_sink_state", locked)
        with pytest.raises(RetryableSinkError, match="locked"):
            await sink.write(feed.ref, batch, marks_of(batch))
    await sink.write(feed.ref, batch, marks_of(batch))
    assert told(hub_server) == [("epoch", 1, False)]
    await sink.close()


async def test_a_worker_that_was_overtaken_uploads_nothing(
    hub_server: HubServer, tmp_path: Path
) -> None:
    old, feed = await ready(hub_server, tmp_path)
    new = make_hub_sink(hub_server, tmp_path)
    await write(new, feed, [feed.metrics([MAP], range(1))])
    with pytest.raises(MarksMovedError):
        event = checkpoint(feed, tmp_path, epoch=1)
        await old.write(feed.ref, [event], marks_of([event]))
    assert told(hub_server) == []
    await old.close()
    await new.close()


async def test_a_final_model_has_ten_tries_also_over_a_change_of_owner(
    hub_server: HubServer, tmp_path: Path
) -> None:
    now = 1000.0
    sink, feed = await ready(hub_server, tmp_path, clock=lambda: now)
    other = make_hub_sink(hub_server, tmp_path, clock=lambda: now)
    batch = [checkpoint(feed, tmp_path, is_final=True, epoch=2)]
    fault = hub_server.fail("upload", status=502)
    for number in range(9):
        owner = sink if number < 5 else other
        await owner.open_run(feed.ref)
        with pytest.raises(RetryableSinkError, match="502"):
            await owner.write(feed.ref, batch, marks_of(batch))
        # The worker comes again sooner than the next try is due: that is none.
        with pytest.raises(RetryableSinkError, match="is tried again in"):
            await owner.write(feed.ref, batch, marks_of(batch))
        now += 2.0 ** (number + 1)
    with pytest.raises(PermanentSinkError, match=r"not uploaded in 10 tries: .* 502"):
        await other.write(feed.ref, batch, marks_of(batch))
    assert fault.hits == 10
    with pytest.raises(PermanentSinkError, match="not uploaded in 10 tries"):
        await other.write(feed.ref, batch, marks_of(batch))
    assert fault.hits == 10
    # It is a dead letter now, which somebody retries when HUB is well again.
    await other.write(feed.ref, [], marks_of([], dead=batch))
    hub_server.stand_in.faults.clear()
    await other.write(feed.ref, batch, marks_of(batch))
    assert told(hub_server) == [("final", 2, 0.0)]
    await sink.close()
    await other.close()


async def test_a_final_model_has_an_hour(hub_server: HubServer, tmp_path: Path) -> None:
    now = 1000.0
    sink, feed = await ready(hub_server, tmp_path, clock=lambda: now)
    batch = [checkpoint(feed, tmp_path, is_final=True, epoch=2)]
    hub_server.fail("upload", status=503)
    with pytest.raises(RetryableSinkError):
        await sink.write(feed.ref, batch, marks_of(batch))
    now += 3600
    with pytest.raises(PermanentSinkError, match="in 1 tries"):
        await sink.write(feed.ref, batch, marks_of(batch))
    await sink.close()


async def test_an_upload_is_shown_in_the_log_and_in_the_state(
    hub_server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "subscribers.hub")
    sink, feed = await ready(hub_server, tmp_path)
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
    sink, feed = await ready(hub_server, tmp_path)
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
