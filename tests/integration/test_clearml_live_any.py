"""Whatever a run may say: the live ClearML sink writes it, counts it, or refuses it for good."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from bus.errors import PermanentSinkError
from bus.sinks import RunRef
from tests.fixtures.events import kind_data, names
from tests.fixtures.feed import Feed, marks_of
from tests.integration.clearml_feed import QUIET, make_live

if TYPE_CHECKING:
    from bus.events import Event
    from subscribers.clearml.live import LiveSink
    from tests.fixtures.clearml.server import ClearmlServer

pytestmark = QUIET

KINDS = ("run_started", "params", "metrics", "summary", "tags", "system", "console", "run_finished")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def sink(
    clearml_server: ClearmlServer, tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> Iterator[LiveSink]:
    sink = make_live(clearml_server, tmp_path)
    yield sink
    loop.run_until_complete(sink.close())


@st.composite
def batches(draw: st.DrawFn) -> list[Event]:
    feed = Feed(draw(names), draw(names))
    feed.ref = RunRef(feed.ref.project, feed.ref.run, draw(names))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5))
    return [
        structs.replace(feed.event(kind, draw(kind_data(kind))), time=draw(st.floats(0, 4e9)))
        for kind in kinds
    ]


@given(batches())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_batch_is_written_whole_or_refused_for_good(
    sink: LiveSink, loop: asyncio.AbstractEventLoop, events: list[Event]
) -> None:
    ref = RunRef(events[0].project, events[0].run, events[0].run_name)

    async def write() -> None:
        held = await sink.open_run(ref)
        if held.applied:
            return  # the same names were drawn before
        try:
            expected = set().union(*(sink.expected_points(event) for event in events))
            await sink.write(ref, events, marks_of(events))
        except PermanentSinkError:
            return
        contents = await sink.contents(ref)
        assert contents is not None
        assert contents.points == len(expected)
        assert contents.marks == marks_of(events)
        await sink.close_run(ref)

    loop.run_until_complete(write())
