"""Heartbeats of models in HUB."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bus.errors import RetryableSinkError
from tests.fixtures.feed import Feed
from tests.fixtures.hub import HubServer, begin, make_hub_sink, write

LOSS = ["train/box_loss"]


async def test_heartbeats_keep_the_agent_id_that_hub_gave(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    await sink.keep_alive(feed.ref)  # there is no model yet
    assert hub_server.received("heartbeat") == []
    await write(sink, feed, begin(feed))
    await sink.keep_alive(feed.ref)
    await sink.close_run(feed.ref)
    await sink.keep_alive(feed.ref)
    other = make_hub_sink(hub_server, tmp_path)
    await other.keep_alive(feed.ref)
    await write(other, feed, [feed.metrics(LOSS, range(1))])
    ids = [one.body["agentId"] for one in hub_server.received("heartbeat")]
    assert ids == [None, "agent-1", "agent-1", "agent-1"]
    (model,) = hub_server.models
    assert model.agents == ["agent-1"]
    await sink.close()
    await other.close()


async def test_a_heartbeat_that_fails_costs_no_write(hub_server: HubServer, tmp_path: Path) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    hub_server.fail("heartbeat", status=500)
    await write(sink, feed, begin(feed))
    with pytest.raises(RetryableSinkError):
        await sink.keep_alive(feed.ref)
    await write(sink, feed, [feed.metrics(LOSS, range(1))])
    assert list(hub_server.models[0].metrics) == ["0"]
    await sink.close()


async def test_a_heartbeat_and_a_write_at_once_do_not_disturb_each_other(
    hub_server: HubServer, tmp_path: Path
) -> None:
    sink = make_hub_sink(hub_server, tmp_path)
    feed = Feed("r1", "digits")
    fault = hub_server.fail("heartbeat", status=503, times=1)
    marks = await write(sink, feed, begin(feed))
    assert fault.hits == 1
    for epoch in range(5):
        event = feed.metrics(LOSS, range(epoch, epoch + 1))
        marks.add_applied(event.source, event.id)
        await asyncio.gather(
            sink.write(feed.ref, [event], marks), *(sink.keep_alive(feed.ref) for _ in range(3))
        )
    assert len(hub_server.models[0].metrics) == 5
    await sink.close()
