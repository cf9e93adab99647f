"""Which model a run is in HUB: named, made, refused, or gone; and with whose key."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest

from bus.errors import PermanentSinkError, RetryableSinkError
from bus.eventlog.aio import AsyncEventLog
from bus.kinds import Params
from subscribers.hub.state import StateStore
from tests.fixtures.feed import Feed, marks_of
from tests.fixtures.hub import KEY, WEB, HubServer, begin, hold_in_log, make_hub_sink, write

LOSS = ["train/box_loss", "metrics/mAP50-95(B)"]


async def test_the_model_waits_until_it_is_known_of_what_it_is_made(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    started, arguments = begin(feed, "yolo11n.pt")
    await write(sink, feed, [started])
    assert hub_server.models == []
    # Another worker goes on: what it needs is kept.
    other = make_hub_sink(hub_server, tmp_path)
    await write(other, feed, [arguments])
    (model,) = hub_server.models
    assert model.body["meta"] == {"name": "yolo11n.pt"}
    assert model.body["lineage"] == {
        "architecture": {"name": "yolo11n"},
        "parent": {"name": "yolo11n.pt"},
    }
    assert model.body["config"]["batchSize"] == 8
    await sink.close()
    await other.close()


async def test_a_run_that_names_no_model_is_one_of_its_own_name(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    await write(sink, feed, [feed.started()], [feed.metrics(["loss"], range(1))])
    (model,) = hub_server.models
    assert model.body["meta"] == {"name": "name of r1"}
    await sink.close()


async def test_a_key_in_a_training_argument_is_kept_nowhere(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    urls = {name: f"{WEB}/{name}/x?api_key={'s' * 42}" for name in ("model", "data")}
    await write(sink, feed, [feed.started(config=urls)])
    store = StateStore(f"sqlite:///{tmp_path / 'log.db'}", "hub", "hub")
    record = await store.read(feed.ref)
    await store.close()
    assert record.fields["arguments"] == {"model": f"{WEB}/model/x", "data": f"{WEB}/data/x"}
    await sink.close()


async def test_a_worker_without_a_key_waits_for_one(hub_server: HubServer, tmp_path: Path) -> None:
    sink = make_hub_sink(hub_server, tmp_path, key=None)
    feed = Feed("r1", "digits")
    start = begin(feed)
    await sink.open_run(feed.ref)
    with pytest.raises(RetryableSinkError, match="set HUB_API_KEY"):
        await sink.write(feed.ref, start, marks_of(start))
    await sink.close()


@pytest.mark.parametrize("form", ["{id}", "{key}_{id}", "{web}/models/{id}"])
async def test_a_model_that_is_named_is_loaded_and_resumed(
    hub_server: HubServer, tmp_path: Path, form: str
) -> None:
    model = hub_server.stand_in.models.add({}, uploads=[{"isBest": True}], status="training")
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    identifier = form.format(id=model.id, key=KEY, web=WEB)
    await write(sink, feed, begin(feed, identifier), [feed.metrics(LOSS, range(7, 8))])
    assert hub_server.models == [model]
    assert list(model.metrics) == ["7"]
    assert len(hub_server.received("create")) == 0
    await sink.close()


@pytest.mark.parametrize(
    ("status", "identifier", "message"),
    [("trained", None, "is trained"), ("new", "nonsense", "is none: use"), ("new", 7, "'int'")],
)
async def test_a_model_that_cannot_be_trained_is_refused_with_all_that_follows(
    hub_server: HubServer, tmp_path: Path, status: str, identifier: object, message: str
) -> None:
    model = hub_server.stand_in.models.add({}, status=status)
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    start, metrics = begin(feed, identifier or model.id), [feed.metrics(LOSS, range(2))]
    await sink.open_run(feed.ref)
    with pytest.raises(PermanentSinkError, match=message):
        await sink.write(feed.ref, start, marks_of(start))
    with pytest.raises(PermanentSinkError, match=message):
        await sink.write(feed.ref, metrics, marks_of(start, metrics))
    # The marks of dead letters can be written, and a new owner refuses the rest too.
    await sink.write(feed.ref, [], marks_of([], dead=start))
    other = make_hub_sink(hub_server, tmp_path)
    assert await other.open_run(feed.ref) == marks_of([], dead=start)
    with pytest.raises(PermanentSinkError, match=message):
        await other.write(feed.ref, metrics, marks_of(start, metrics))
    assert hub_server.models == [model]
    assert model.metrics == {}
    await sink.close()
    await other.close()


async def test_a_refused_model_is_not_asked_for_by_every_event(
    hub_server: HubServer, tmp_path: Path
) -> None:
    now = 1000.0
    sink = make_hub_sink(hub_server, tmp_path, clock=lambda: now)
    model = hub_server.stand_in.models.add({}, status="trained")
    feed = Feed("r1", "digits")
    start = begin(feed, model.id)
    await sink.open_run(feed.ref)
    for _ in range(5):
        with pytest.raises(PermanentSinkError):
            await sink.write(feed.ref, start, marks_of(start))
    assert len(hub_server.received("load")) == 1
    # Somebody puts it right, and retries the dead letters.
    model.status = "training"
    now += 61
    await sink.write(feed.ref, start, marks_of(start))
    assert len(hub_server.received("load")) == 2
    await sink.close()


async def test_a_key_in_an_identifier_is_used_by_the_next_owner_too_and_kept_nowhere(
    hub_server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    own = "o" * 42
    hub_server.stand_in.keys = {own}
    model = hub_server.stand_in.models.add({})
    feed = Feed("r1", "digits")
    start = begin(feed, f"{WEB}/models/{model.id}?api_key={own}")
    sink = make_hub_sink(hub_server, tmp_path)
    await write(sink, feed, start)
    await sink.close()
    # It stands in the run's first event only, which the log has, sooner or later.
    other = make_hub_sink(hub_server, tmp_path)
    with pytest.raises(RetryableSinkError, match="is not in the event log"):
        await other.keep_alive(feed.ref)
    await hold_in_log(tmp_path, *start)
    await write(other, feed, [feed.metrics(LOSS, range(1))])
    await other.keep_alive(feed.ref)
    assert list(model.metrics) == ["0"]
    log = await AsyncEventLog.open(f"sqlite:///{tmp_path / 'log.db'}")
    raw = await log.get_sink_state("hub", "digits", "r1")
    await log.close()
    assert raw is not None
    assert own.encode() not in raw
    assert own not in caplog.text
    assert {one.headers["x-api-key"] for one in hub_server.stand_in.received} == {own}
    await other.close()


async def test_of_two_sinks_that_begin_a_run_at_once_one_makes_the_model(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sinks = [make_hub_sink(hub_server, tmp_path) for _ in range(2)]
    feed = Feed("r1", "digits")
    start = begin(feed)
    for sink in sinks:
        await sink.open_run(feed.ref)
    done = await asyncio.gather(
        *(sink.write(feed.ref, start, marks_of(start)) for sink in sinks), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in done) == ["MarksMovedError", "NoneType"]
    assert len(hub_server.models) == 1
    for sink in sinks:
        await sink.close()


async def test_a_model_that_somebody_deleted_stays_deleted(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    await write(sink, feed, begin(feed))
    hub_server.stand_in.models.all.clear()
    more = [feed.metrics(LOSS, range(n, n + 1)) for n in range(5)]
    await sink.open_run(feed.ref)
    for event in more:
        with pytest.raises(PermanentSinkError, match="404"):
            await sink.write(feed.ref, [event], marks_of([event]))
    # Not every one of its events asks.
    assert len(hub_server.received("metrics")) == 1
    assert await sink.contents(feed.ref) is None
    assert hub_server.models == []
    await sink.close()


async def test_arguments_may_be_of_any_type(hub_server: HubServer, tmp_path: Path) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    odd = {
        "batch": "16",
        "epochs": "many",
        "imgsz": [64, 64],
        "patience": math.inf,
        "device": 0,
        "cache": None,
        "model": {"a": 1},
        "data": 7,
    }
    await write(sink, feed, [feed.started(), feed.event("params", Params("General", odd))])
    body = hub_server.models[0].body
    assert body["config"] == {
        "batchSize": 16,
        "epochs": 300,
        "imageSize": 640,
        "patience": 100,
        "device": "0",
        "cache": "False",
    }
    assert body["dataset"] == {"name": "7"}
    assert json.dumps(body, allow_nan=False)
    await sink.close()
