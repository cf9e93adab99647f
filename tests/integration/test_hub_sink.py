"""The sink of HUB v1 against its stand-in: models, metrics, and what is kept between workers."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from bus.errors import MarksMovedError
from bus.kinds import Metrics, Number, Summary, Table
from bus.sinks import KeepsAlive, RateLimited, ReportsState, Sink
from tests.fixtures.feed import START, Feed, marks_of
from tests.fixtures.hub import WEB, HubServer, begin, make_hub_sink, write

LOSS = ["train/box_loss", "metrics/mAP50-95(B)"]
FACTS = {"model/parameters": 2590230, "model/GFLOPs": 6.439, "model/speed_PyTorch(ms)": 3.581}


async def test_a_run_becomes_a_model_with_its_metrics_by_epoch(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    facts = feed.event("summary", Summary(dict(FACTS)))
    await write(sink, feed, begin(feed), [facts], [feed.metrics(LOSS, range(2))])
    (model,) = hub_server.models
    assert model.metrics == {
        "0": {LOSS[0]: 0.5, LOSS[1]: 0.5, **FACTS},
        "1": {LOSS[0]: 1.5, LOSS[1]: 1.5},
    }
    assert (model.status, model.body["config"]["epochs"]) == ("training", 3)
    contents = await sink.contents(feed.ref)
    assert contents is not None
    assert contents.url == f"{WEB}/models/{model.id}"
    await sink.close()


async def test_the_sink_offers_what_the_worker_asks_for(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink: Sink = make_hub_sink(hub_server, tmp_path)
    assert isinstance(sink, KeepsAlive)
    assert isinstance(sink, ReportsState)
    assert isinstance(sink, RateLimited)
    assert sink.keep_alive_seconds == 300.0
    (rate,) = sink.rate_limits.kinds.values()
    assert sink.rate_limits.kinds.keys() == {"metrics"}
    assert (round(1 / rate.tokens_per_second), rate.burst) == (3, 1)
    await sink.close()


async def test_values_of_one_epoch_that_come_apart_are_sent_together(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    await write(sink, feed, begin(feed), [feed.metrics(["train/loss"], range(3))])
    await sink.close()
    other = make_hub_sink(hub_server, tmp_path)
    await write(other, feed, [feed.metrics(["val/loss"], range(2, 4))])
    (model,) = hub_server.models
    assert model.metrics["2"] == {"train/loss": 2.5, "val/loss": 2.5}
    assert model.metrics["3"] == {"val/loss": 3.5}
    await other.close()


async def test_facts_of_the_model_that_come_late_join_epoch_0_at_the_end(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    many = [feed.metrics(["loss"], range(30))]
    facts = feed.event("summary", Summary(dict(FACTS)))
    await write(sink, feed, begin(feed), many, [facts])
    (model,) = hub_server.models
    assert model.metrics["0"] == {"loss": 0.5}
    await write(sink, feed, [feed.finished()])
    assert model.metrics["0"] == {"loss": 0.5, **FACTS}
    assert len(hub_server.received("metrics")) == 2
    await sink.close()


async def test_several_epochs_go_in_one_request_and_other_ranks_stay_out(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed, second = Feed("r1", "digits"), Feed("r1", "digits", rank=1)
    batch = [
        *begin(feed),
        second.started(),
        feed.metrics(["loss", "rank1/loss"], range(10)),
        second.metrics(["rank1/loss"], range(10)),
        feed.metrics(["loss"], range(10, 20)),
    ]
    await write(sink, feed, batch)
    assert len(hub_server.received("metrics")) == 1
    (model,) = hub_server.models
    assert model.metrics == {str(n): {"loss": n + 0.5} for n in range(20)}
    await sink.close()


async def test_values_that_are_not_finite_are_null(hub_server: HubServer, tmp_path: Path) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    row: list[Number] = [START, 0, math.nan, math.inf, -math.inf, 10**400]
    values = Metrics([Table(["a", "b", "c", "d"], [row])])
    await write(sink, feed, [*begin(feed), feed.event("metrics", values)])
    (model,) = hub_server.models
    assert model.metrics["0"] == {"a": None, "b": None, "c": None, "d": None}
    await sink.close()


async def test_a_batch_that_is_written_again_changes_nothing(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    batch = [*begin(feed), feed.metrics(LOSS, range(3)), feed.finished()]
    await write(sink, feed, batch)
    (model,) = hub_server.models
    before = dict(model.metrics)
    for _ in range(2):
        await sink.write(feed.ref, batch, marks_of(batch))
    assert hub_server.models == [model]
    assert model.metrics == before
    await sink.close()


async def test_of_two_sinks_the_one_that_was_overtaken_writes_no_marks(
    hub_server: HubServer, tmp_path: Path
) -> None:
    old, new = make_hub_sink(hub_server, tmp_path), make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    start = begin(feed)
    await write(old, feed, start)
    first, second = [feed.metrics(LOSS, range(1))], [feed.metrics(LOSS, range(1, 2))]
    assert await new.open_run(feed.ref) == marks_of(start)
    await new.write(feed.ref, first, marks_of(start, first))
    with pytest.raises(MarksMovedError):
        await old.write(feed.ref, second, marks_of(start, second))
    assert await old.open_run(feed.ref) == marks_of(start, first)
    await old.close()
    await new.close()


async def test_a_run_that_is_not_open_is_opened_anew_by_the_worker(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    start = begin(feed)
    with pytest.raises(MarksMovedError, match="is not open"):
        await sink.write(feed.ref, start, marks_of(start))
    await sink.open_run(feed.ref)
    await sink.close_run(feed.ref)
    with pytest.raises(MarksMovedError):
        await sink.write(feed.ref, start, marks_of(start))
    await sink.close()


async def test_two_runs_at_once_do_not_mix(hub_server: HubServer, tmp_path: Path) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feeds = [Feed(f"r{n}", "digits") for n in range(2)]

    async def whole(feed: Feed) -> None:
        for epoch in range(3):
            start = begin(feed) if epoch == 0 else []
            batch = [*start, feed.metrics([feed.ref.run], range(epoch, epoch + 1))]
            await write(sink, feed, batch)

    await asyncio.gather(*map(whole, feeds))
    first, second = hub_server.models
    for model in (first, second):
        names = {name for values in model.metrics.values() for name in values}
        assert len(names) == 1
        assert len(model.metrics) == 3
    await sink.close()
