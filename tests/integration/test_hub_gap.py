"""Requests of one model reach HUB apart, however long the first of them took."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bus.config import Settings
from subscribers.hub.keys import ApiKey
from subscribers.hub.state import StateStore
from subscribers.hub.v1.sink import HubSink
from tests.fixtures.feed import Feed
from tests.fixtures.hub import KEY, WEB, HubServer, begin, write


async def test_the_next_metrics_of_a_model_wait_after_the_answer_to_the_last(
    hub_server: HubServer, tmp_path: Path
) -> None:
    settings = Settings.from_environment({"TRAINBUS_HOME": str(tmp_path)})
    store = StateStore.of(settings, "hub", "hub")
    key = ApiKey(KEY, "HUB_API_KEY", "x-api-key")
    sink = HubSink(store, hub_server.url, WEB, key, metrics_gap_seconds=0.4)
    feed = Feed("r1", "digits")
    clock = asyncio.get_running_loop().time
    metrics = [[feed.metrics(["loss"], range(step, step + 1))] for step in range(2)]
    began = clock()
    await write(sink, feed, begin(feed), *metrics)
    assert clock() - began >= 0.3
    (model,) = hub_server.models
    assert sorted(model.metrics) == ["0", "1"]
    await sink.close()
