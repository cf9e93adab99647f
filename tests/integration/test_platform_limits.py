"""The limits of Platform's plan, as the sink keeps them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.errors import RetryableSinkError
from bus.events import Event
from subscribers.hub.platform.sink import PlatformSink
from subscribers.hub.platform.windows import Plan
from tests.fixtures.feed import marks_of
from tests.fixtures.platform import PlatformServer, running_platform
from tests.integration.platform_parts import Training, make_sink

Workers = Callable[..., PlatformSink]


@pytest.fixture
def platform() -> Iterator[PlatformServer]:
    with running_platform() as server:
        yield server


@pytest.fixture
async def workers(platform: PlatformServer, tmp_path: Path) -> AsyncIterator[Workers]:
    made: list[PlatformSink] = []

    def make(**changes: Any) -> PlatformSink:
        made.append(make_sink(platform, tmp_path, **changes))
        return made[-1]

    yield make
    for sink in made:
        await sink.close()


async def refused_for_now(
    sink: PlatformSink, training: Training, events: list[Event]
) -> RetryableSinkError:
    with pytest.raises(RetryableSinkError) as caught:
        await sink.write(training.ref, events, marks_of(events))
    return caught.value


async def test_requests_are_never_more_than_the_plan_allows_also_after_a_restart(
    platform: PlatformServer, workers: Workers, tmp_path: Path
) -> None:
    now = [1_767_225_600.0]
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    options = {"plan": Plan(per_minute=5, per_day=8), "clock": lambda: now[0], "sleep": sleep}
    training = Training(tmp_path / "training")
    sink = workers(**options)
    await sink.open_run(training.ref)
    events = [*training.begin(), *(e for n in range(12) for e in training.epoch(n))]
    error = await refused_for_now(sink, training, events)
    assert len(platform.received) == 5
    assert "5 requests a minute" in str(error)
    assert error.retry_after_seconds is not None
    assert 60 <= error.retry_after_seconds <= 65
    # Another worker, after a restart, counts on.
    other = workers(**options)
    await other.open_run(training.ref)
    await refused_for_now(other, training, events)
    assert len(platform.received) == 5
    now[0] += 66
    error = await refused_for_now(other, training, events)
    assert len(platform.received) == 8
    assert "8 requests a day" in str(error)
    assert other.state()["requests_of_the_day"] == "8 of 8"
    now[0] += 86_400 + 900
    await training.write(other, events)
    assert platform.models["m1"].epochs == list(range(12))
    assert len(platform.received) == 13
    assert slept == []


async def test_a_short_wait_for_the_limit_is_waited(
    platform: PlatformServer, workers: Workers, tmp_path: Path
) -> None:
    now = [1_767_225_600.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    sink = workers(plan=Plan(1, 100), clock=lambda: now[0], sleep=sleep)
    training = Training(tmp_path / "training")
    await sink.open_run(training.ref)
    await training.write(sink, training.begin())
    now[0] += 58
    await training.write(sink, [*training.epoch(0), *training.epoch(1)[:0], training.row(1, x=1)])
    assert platform.models["m1"].epochs == [0]


async def test_workers_that_count_at_the_same_time_count_every_request(
    platform: PlatformServer, workers: Workers, tmp_path: Path
) -> None:
    plan = Plan(per_minute=10, per_day=1000)
    trainings = [Training(tmp_path / str(number), f"r{number}") for number in range(4)]
    sinks = [workers(plan=plan) for _ in trainings]

    async def work(sink: PlatformSink, training: Training) -> None:
        await sink.open_run(training.ref)
        with contextlib.suppress(RetryableSinkError):
            await training.write(sink, training.whole(epochs=5))

    await asyncio.gather(*map(work, sinks, trainings))
    assert len([one for one in platform.received if one.method == "POST"]) == 10


async def test_a_limit_that_platform_itself_keeps_is_waited_for(
    platform: PlatformServer, workers: Workers, tmp_path: Path
) -> None:
    platform.per_minute = 3
    sink = workers()
    training = Training(tmp_path / "training")
    await sink.open_run(training.ref)
    events = training.whole()
    error = await refused_for_now(sink, training, events)
    assert error.retry_after_seconds is not None
    assert 50 < error.retry_after_seconds <= 60
    assert len(platform.models["m1"].events) == 3
    platform.per_minute = None
    await training.write(sink, events)
    assert platform.models["m1"].epochs == [0, 1, 2]
    assert platform.models["m1"].status == "completed"
