"""Weights on their way to HUB: which go, how they are sent, and how often they are tried."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from bus.errors import PermanentSinkError, RetryableSinkError, SinkError
from bus.idranges import IdRanges
from bus.kinds import Summary
from subscribers.hub.v1.sink import HubSink
from tests.fixtures.feed import Feed, marks_of
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

MAP = "metrics/mAP50-95(B)"


async def test_a_checkpoint_arrives_whole_with_what_is_known_of_it(
    hub_server: HubServer, tmp_path: Path
) -> None:
    clock = Clock()
    sink, feed = await hub_run(hub_server, tmp_path, clock=clock)
    content = os.urandom(3_000_000)
    await write(sink, feed, [checkpoint(feed, tmp_path, content, epoch=4)])
    clock.now += 900
    await write(sink, feed, [checkpoint(feed, tmp_path, content[1:], epoch=5, is_best=True)])
    assert uploads_of(hub_server) == [("epoch", 4, False), ("epoch", 5, True)]
    (model,) = hub_server.models
    assert model.uploads[0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert (model.has_last_weights, model.told()["has_best_weights"]) == (True, True)
    await sink.close()


async def test_the_final_model_carries_the_last_quality_and_epoch(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink, feed = await hub_run(hub_server, tmp_path)
    await write(sink, feed, [feed.metrics([MAP], range(3))])
    await write(sink, feed, [feed.event("summary", Summary({MAP: 0.75}))])
    final = checkpoint(feed, tmp_path, is_final=True, is_best=True, fitness=0.1)
    await write(sink, feed, [final, feed.finished()])
    assert uploads_of(hub_server) == [("final", 2, 0.75)]
    assert hub_server.models[0].status == "trained"
    await sink.close()


async def test_without_metrics_the_final_model_carries_its_fitness(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink, feed = await hub_run(hub_server, tmp_path)
    await write(sink, feed, [checkpoint(feed, tmp_path, is_final=True, epoch=9, fitness=0.5)])
    assert uploads_of(hub_server) == [("final", 9, 0.5)]
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
    sink, feed = await hub_run(hub_server, tmp_path, clock=clock)
    events = [checkpoint(feed, tmp_path, epoch=n, is_best=n in {2, 4}) for n in range(8)]
    for event in events:
        await write(sink, feed, [event])
        clock.now += 100
    assert uploads_of(hub_server) == [("epoch", 0, False)]
    assert await superseded(sink, feed) == {events[n].id for n in (1, 2, 3, 5, 6)}
    # A new owner goes on with it, with the next event of any kind.
    other = make_hub_sink(hub_server, tmp_path, clock=clock)
    for epoch, (now, uploads) in enumerate([(1899, 1), (1900, 2), (2799, 2), (2800, 3), (9000, 3)]):
        clock.now = now
        await write(other, feed, [feed.metrics([MAP], range(epoch, epoch + 1))])
        assert len(uploads_of(hub_server)) == uploads
    assert uploads_of(hub_server)[1:] == [("epoch", 4, True), ("epoch", 7, False)]
    await sink.close()
    await other.close()


@pytest.mark.parametrize("status", ["failed", "completed"])
async def test_what_waits_is_uploaded_when_the_run_ends_without_a_final_model(
    hub_server: HubServer, tmp_path: Path, status: str
) -> None:
    sink, feed = await hub_run(hub_server, tmp_path)
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
    assert uploads_of(hub_server) == [("epoch", 0, False), ("epoch", 1, True), ("epoch", 2, False)]
    assert await superseded(sink, feed) == set()
    await sink.close()


async def test_what_waits_makes_way_for_the_final_model(
    hub_server: HubServer, tmp_path: Path
) -> None:
    clock = Clock()
    sink, feed = await hub_run(hub_server, tmp_path, clock=clock)
    events = [checkpoint(feed, tmp_path, epoch=n, is_best=n == 1) for n in range(3)]
    for event in events:
        await write(sink, feed, [event])
    late = checkpoint(feed, tmp_path, epoch=3)
    final = checkpoint(feed, tmp_path, is_final=True, epoch=3)
    await write(sink, feed, [final])
    clock.now += 5000
    # A limit of the worker may let the final one overtake others.
    await write(sink, feed, [late], [feed.finished()])
    assert uploads_of(hub_server) == [("epoch", 0, False), ("final", 3, 0.0)]
    assert await superseded(sink, feed) == {one.id for one in (*events[1:], late)}
    await sink.close()


async def test_a_second_attempt_uploads_again_after_a_final_model(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink, feed = await hub_run(hub_server, tmp_path)
    await write(sink, feed, [checkpoint(feed, tmp_path, is_final=True, epoch=3)])
    again = Feed("r1", "digits", attempt=2)
    await write(sink, again, [again.started(), checkpoint(again, tmp_path, epoch=4)])
    assert uploads_of(hub_server) == [("final", 3, 0.0), ("epoch", 4, False)]
    await sink.close()


async def test_weights_that_wait_and_are_gone_are_given_up_and_cost_nothing_else(
    hub_server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    sink, feed = await hub_run(hub_server, tmp_path, clock=clock)
    for number, end in ((0, feed.metrics([MAP], range(1))), (1, feed.finished())):
        await write(sink, feed, [checkpoint(feed, tmp_path, b"first", epoch=0)])
        event = checkpoint(feed, tmp_path, f"gone {number}".encode(), epoch=1)
        await write(sink, feed, [event])
        stored_file(event).unlink()
        clock.now += 900
        await write(sink, feed, [end])
        assert caplog.text.count("weights given up") == number + 1
    await sink.close()


async def test_weights_that_would_wait_and_are_gone_are_refused_while_their_event_is_in_hand(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink, feed = await hub_run(hub_server, tmp_path)
    await write(sink, feed, [checkpoint(feed, tmp_path, b"first", epoch=0)])
    event = checkpoint(feed, tmp_path, b"second", epoch=1)
    stored_file(event).write_bytes(b"cut")
    with pytest.raises(SinkError, match="has 3 bytes and not 6"):
        await write(sink, feed, [event])
    stored_file(event).unlink()
    with pytest.raises(PermanentSinkError, match="no longer has it"):
        await write(sink, feed, [event])
    with pytest.raises(PermanentSinkError, match="no longer has it"):
        await write(sink, feed, [event, feed.finished()])
    await sink.close()


async def test_uploads_that_fail_hold_up_no_metrics_and_are_tried_less_and_less(
    hub_server: HubServer, tmp_path: Path
) -> None:
    clock = Clock()
    sink, feed = await hub_run(hub_server, tmp_path, clock=clock)
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
    assert uploads_of(hub_server) == [("epoch", 0, False)]
    await sink.close()


async def test_the_pause_that_hub_asks_for_before_an_upload_is_heeded(
    hub_server: HubServer, tmp_path: Path
) -> None:
    clock = Clock()
    sink, feed = await hub_run(hub_server, tmp_path, clock=clock)
    fault = hub_server.fail("upload", status=429, headers={"Retry-After": "120"}, times=1)
    await write(sink, feed, [checkpoint(feed, tmp_path, epoch=0)])
    clock.now += 119
    await write(sink, feed, [feed.metrics([MAP], range(1))])
    assert (fault.hits, uploads_of(hub_server)) == (1, [])
    clock.now += 1
    await write(sink, feed, [feed.metrics([MAP], range(1, 2))])
    assert uploads_of(hub_server) == [("epoch", 0, False)]
    await sink.close()


async def test_weights_of_other_ranks_stay_out(hub_server: HubServer, tmp_path: Path) -> None:
    sink, _ = await hub_run(hub_server, tmp_path)
    second = Feed("r1", "digits", rank=1)
    await write(sink, second, [second.started(), checkpoint(second, tmp_path, epoch=1)])
    assert uploads_of(hub_server) == []
    await sink.close()


async def test_a_folder_is_refused(hub_server: HubServer, tmp_path: Path) -> None:
    sink, feed = await hub_run(hub_server, tmp_path)
    folder = tmp_path / "sharded"
    folder.mkdir()
    (folder / "part-0").write_bytes(b"x")
    with pytest.raises(PermanentSinkError, match="is a folder: HUB takes"):
        await write(sink, feed, [checkpoint(feed, tmp_path, folder, epoch=1)])
    await sink.close()


async def test_a_blob_that_is_gone_is_given_up(hub_server: HubServer, tmp_path: Path) -> None:
    sink, feed = await hub_run(hub_server, tmp_path)
    event = checkpoint(feed, tmp_path, epoch=1)
    stored_file(event).unlink()
    with pytest.raises(PermanentSinkError, match="no longer has it"):
        await write(sink, feed, [event])
    assert uploads_of(hub_server) == []
    await sink.close()


async def test_a_final_model_has_ten_tries_also_over_a_change_of_owner(
    hub_server: HubServer, tmp_path: Path
) -> None:
    now = 1000.0
    sink, feed = await hub_run(hub_server, tmp_path, clock=lambda: now)
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
    assert uploads_of(hub_server) == [("final", 2, 0.0)]
    await sink.close()
    await other.close()


async def test_a_final_model_has_an_hour(hub_server: HubServer, tmp_path: Path) -> None:
    now = 1000.0
    sink, feed = await hub_run(hub_server, tmp_path, clock=lambda: now)
    batch = [checkpoint(feed, tmp_path, is_final=True, epoch=2)]
    hub_server.fail("upload", status=503)
    with pytest.raises(RetryableSinkError):
        await sink.write(feed.ref, batch, marks_of(batch))
    now += 3600
    with pytest.raises(PermanentSinkError, match="in 1 tries"):
        await sink.write(feed.ref, batch, marks_of(batch))
    await sink.close()
