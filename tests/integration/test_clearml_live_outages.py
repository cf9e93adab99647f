"""The live ClearML sink while its server is down, silent, wrong, or refuses who asks or what."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bus.errors import RetryableSinkError
from bus.kinds import Params, Summary
from bus.sinks import Marks
from tests.fixtures.feed import Feed, marks_of
from tests.integration.clearml_feed import QUIET, make_live, task_of

if TYPE_CHECKING:
    from subscribers.clearml.live import LiveSink
    from tests.fixtures.clearml.server import ClearmlServer

pytestmark = QUIET


@pytest.fixture
async def sink(clearml_server: ClearmlServer, tmp_path: Path) -> AsyncIterator[LiveSink]:
    sink = make_live(clearml_server, tmp_path, TRAINBUS_CLEARML_TIMEOUT="1")
    yield sink
    await sink.close()


async def test_a_server_that_dies_and_returns_has_every_point_once(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    feed = Feed("outage", "digits")
    first = [feed.started(), feed.metrics(["loss"], range(1500))]
    second = [feed.metrics(["loss"], range(1500, 3000)), feed.finished()]
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, first, marks_of(first))
    key = task_of(clearml_server, feed.ref)["id"]

    # After two of the calls, so that a part has arrived.
    clearml_server.faults.hang("events.add_batch", 1, skip=2)
    with pytest.raises(RetryableSinkError, match=r"timed out|timeout"):
        await sink.write(feed.ref, second, marks_of(first, second))
    clearml_server.stop()
    with pytest.raises(RetryableSinkError, match="Connection"):
        await sink.write(feed.ref, second, marks_of(first, second))
    with pytest.raises(RetryableSinkError):
        await sink.contents(feed.ref)
    with pytest.raises(RetryableSinkError):
        await sink.keep_alive(feed.ref)

    clearml_server.faults.clear()
    clearml_server.start()
    await sink.write(feed.ref, second, marks_of(first, second))
    contents = await sink.contents(feed.ref)
    assert list(clearml_server.scalars(key)["loss", "loss"]) == list(range(3000))
    assert clearml_server.status(key) == "completed"
    assert contents is not None
    assert (contents.points, contents.marks) == (3000, marks_of(first, second))


async def test_a_server_that_is_down_at_the_start_is_asked_again(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    clearml_server.stop()
    feeds = [Feed(f"run{number}", "digits") for number in range(4)]
    results = await asyncio.gather(
        *(sink.open_run(feed.ref) for feed in feeds), return_exceptions=True
    )
    assert all(isinstance(result, RetryableSinkError) for result in results)
    clearml_server.start()
    assert await sink.open_run(feeds[0].ref) == Marks()


async def test_a_server_that_hangs_at_the_login_costs_all_runs_one_timeout(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    clearml_server.faults.hang("auth.login")
    feeds = [Feed(f"run{number}", "digits") for number in range(8)]
    start = time.monotonic()
    results = await asyncio.gather(
        *(sink.open_run(feed.ref) for feed in feeds), return_exceptions=True
    )
    assert all(isinstance(result, RetryableSinkError) for result in results)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "endpoint",
    [
        "projects.get_all",
        "projects.create",
        "tasks.create",
        "tasks.get_all",
        "tasks.started",
        "events.add_batch",
        "tasks.edit",
        "tasks.edit_hyper_params",
        "tasks.completed",
    ],
)
@pytest.mark.parametrize("is_done", [True, False])
async def test_a_connection_lost_at_any_point_leaves_everything_there_once(
    sink: LiveSink, clearml_server: ClearmlServer, endpoint: str, is_done: bool
) -> None:
    feed = Feed("lost answer", "digits")
    events = [
        feed.started(tags={"team": "vision"}),
        feed.event("params", Params("General", {"lr": 0.1})),
        feed.metrics(["loss"], range(600)),
        feed.event("summary", Summary({"acc": 0.9})),
        feed.finished(),
    ]
    await sink.open_run(feed.ref)
    clearml_server.faults.drop(endpoint, 1, is_done=is_done)
    with pytest.raises(RetryableSinkError):
        await sink.write(feed.ref, events, marks_of(events))
    clearml_server.faults.clear()
    await sink.write(feed.ref, events, marks_of(events))
    (task,) = clearml_server.tasks()
    assert len(clearml_server.store.projects) == 1
    assert list(clearml_server.scalars(task["id"])["loss", "loss"]) == list(range(600))
    assert clearml_server.single_values(task["id"]) == {"acc": 0.9}
    assert task["tags"] == ["trainbus-run:lost answer", "team:vision"]
    assert task["status"] == "completed"
    contents = await sink.contents(feed.ref)
    assert contents is not None
    assert (contents.points, contents.marks) == (601, marks_of(events))


async def test_a_worker_killed_between_data_and_marks_is_taken_over_without_a_trace(
    sink: LiveSink, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    feed = Feed("killed", "digits")
    first = [feed.started(), feed.metrics(["loss"], range(50))]
    await sink.write(feed.ref, first, marks_of(first))
    second = [feed.metrics(["loss"], range(50, 700))]
    clearml_server.faults.drop("tasks.edit_hyper_params", 1)
    with pytest.raises(RetryableSinkError):
        await sink.write(feed.ref, second, marks_of(first, second))
    key = task_of(clearml_server, feed.ref)["id"]
    assert len(clearml_server.scalars(key)["loss", "loss"]) == 700

    other = make_live(clearml_server, tmp_path)
    assert await other.open_run(feed.ref) == marks_of(first)
    third = [feed.finished()]
    await other.write(feed.ref, [*second, *third], marks_of(first, second, third))
    await other.close()
    assert list(clearml_server.scalars(key)["loss", "loss"]) == list(range(700))
    assert clearml_server.status(key) == "completed"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 507])
async def test_a_pause_that_the_server_asks_for_is_passed_on(
    sink: LiveSink, clearml_server: ClearmlServer, status: int
) -> None:
    feed = Feed("busy", "digits")
    await sink.open_run(feed.ref)
    clearml_server.faults.answer("*", status, 1, retry_after=12)
    with pytest.raises(RetryableSinkError, match=str(status)) as caught:
        await sink.write(feed.ref, [feed.started()], Marks())
    assert caught.value.retry_after_seconds == 12


async def test_a_busy_server_at_the_login_is_told_from_wrong_keys(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    clearml_server.faults.answer("auth.login", 503, 1, retry_after=5)
    with pytest.raises(RetryableSinkError, match="503") as caught:
        await sink.open_run(Feed("r", "digits").ref)
    assert caught.value.retry_after_seconds == 5
    assert await sink.open_run(Feed("r", "digits").ref) == Marks()


async def test_an_expired_token_is_renewed_once(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    feed = Feed("token", "digits")
    first = [feed.started()]
    await sink.write(feed.ref, first, marks_of(first))
    clearml_server.faults.expire_tokens()
    second = [feed.metrics(["loss"], range(1000))]
    await sink.write(feed.ref, second, marks_of(first, second))
    assert len(clearml_server.requests_of("auth.login")) == 2
    key = task_of(clearml_server, feed.ref)["id"]
    assert len(clearml_server.scalars(key)["loss", "loss"]) == 1000


async def test_wrong_keys_are_named_and_not_shown(
    clearml_server: ClearmlServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = make_live(clearml_server, tmp_path, CLEARML_API_SECRET_KEY="hidden-and-wrong")
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(RetryableSinkError, match="CLEARML_API_SECRET_KEY") as caught,
    ):
        await sink.open_run(Feed("r", "digits").ref)
    assert "hidden" not in str(caught.value) + caplog.text
    await sink.close()


async def test_a_token_that_stays_refused_is_not_asked_for_without_end(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    clearml_server.faults.answer("tasks.*", 401, subcode=30)
    with pytest.raises(RetryableSinkError, match="CLEARML_API_ACCESS_KEY"):
        await sink.open_run(Feed("r", "digits").ref)
    assert len(clearml_server.requests_of("auth.login")) == 2
    assert len(clearml_server.requests_of("tasks.get_all")) == 2


async def test_slow_answers_are_waited_for(sink: LiveSink, clearml_server: ClearmlServer) -> None:
    clearml_server.faults.slow("*", 0.2)
    feed = Feed("slow", "digits")
    events = [feed.started(), feed.metrics(["loss"], range(10))]
    await sink.write(feed.ref, events, marks_of(events))
    key = task_of(clearml_server, feed.ref)["id"]
    assert len(clearml_server.scalars(key)["loss", "loss"]) == 10


async def test_closing_does_not_wait_for_a_server_that_hangs(
    clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    sink = make_live(clearml_server, tmp_path, TRAINBUS_CLEARML_TIMEOUT="2")
    feed = Feed("close", "digits")
    await sink.open_run(feed.ref)
    clearml_server.faults.hang("*")
    write = asyncio.create_task(sink.write(feed.ref, [feed.started()], Marks()))
    await asyncio.sleep(0.1)
    start = time.monotonic()
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    await sink.close()
    assert time.monotonic() - start < 1
