"""The Platform sink when Platform or somebody in between does not do what it should."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bus.errors import PermanentSinkError, RetryableSinkError, SinkError
from bus.events import Event
from bus.kinds import Console
from bus.sinks import RunRef
from subscribers.hub.platform.sink import PlatformSink
from tests.fixtures.feed import marks_of
from tests.fixtures.platform import KEY, Faults, PlatformServer, running_platform
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


@pytest.fixture
def sink(workers: Workers) -> PlatformSink:
    return workers()


@pytest.fixture
async def training(sink: PlatformSink, tmp_path: Path) -> Training:
    """One that has begun."""
    training = Training(tmp_path / "training")
    await sink.open_run(training.ref)
    await training.write(sink, [*training.begin(), *training.epoch(0)])
    return training


async def refused_for_now(
    sink: PlatformSink, training: Training, events: list[Event]
) -> RetryableSinkError:
    with pytest.raises(RetryableSinkError) as caught:
        await sink.write(training.ref, events, marks_of(events))
    return caught.value


def files_with(text: str, folder: Path) -> list[Path]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if text.encode() in file.read_bytes()]


async def test_an_outage_loses_nothing_and_tells_nothing_twice(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    events = [*training.epoch(1), *training.epoch(2), training.feed.finished()]
    await asyncio.to_thread(platform.break_down)
    for _ in range(3):
        error = await refused_for_now(sink, training, events)
        assert "Ultralytics Platform at http://127.0.0.1" in str(error)
    await asyncio.to_thread(platform.heal)
    await training.write(sink, events)
    assert platform.models["m1"].epochs == [0, 1, 2]
    assert platform.models["m1"].status == "completed"


@pytest.mark.parametrize(
    ("faults", "said", "pause"),
    [
        (Faults(status=503), "answers 503", None),
        (Faults(status=500), "answers 500", None),
        (Faults(status=408), "answers 408", None),
        (Faults(status=429, headers={"Retry-After": "7"}), "answers 429", 7.0),
        (Faults(status=429, headers={"X-RateLimit-Reset": "12"}), "answers 429", 12.0),
        (Faults(status=401), "set ULTRALYTICS_API_KEY", None),
        (Faults(status=403), "set ULTRALYTICS_API_KEY", None),
        (Faults(status=302, headers={"Location": "http://x/"}), "ULTRALYTICS_PLATFORM_URL", None),
        (Faults(is_html=True), "check ULTRALYTICS_PLATFORM_URL", None),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_what_may_pass_or_is_a_persons_mistake_is_tried_again(
    platform: PlatformServer,
    sink: PlatformSink,
    training: Training,
    faults: Faults,
    said: str,
    pause: float | None,
) -> None:
    platform.faults = faults
    error = await refused_for_now(sink, training, training.epoch(1))
    assert said in str(error)
    assert error.retry_after_seconds == pause


async def test_a_conflict_is_tried_a_bounded_number_of_times(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    platform.faults = Faults(status=409)
    events = training.epoch(1)
    with pytest.raises(SinkError, match="answers 409") as caught:
        await sink.write(training.ref, events, marks_of(events))
    assert type(caught.value) is SinkError


async def test_a_platform_that_hangs_is_given_up_in_time(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    platform.faults = Faults(is_hanging=True)
    began = time.monotonic()
    error = await refused_for_now(sink, training, training.epoch(1))
    assert "no answer in time" in str(error)
    assert time.monotonic() - began < 5
    assert await sink.contents(training.ref) is not None


async def test_a_write_that_hangs_can_be_cancelled_and_the_sink_closed(
    platform: PlatformServer, workers: Workers, tmp_path: Path
) -> None:
    training = Training(tmp_path / "training")
    sink = workers(times=None)
    await sink.open_run(training.ref)
    platform.faults = Faults(is_hanging=True)
    writing = asyncio.create_task(training.write(sink, training.begin()))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(5):
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await sink.close_run(training.ref)
        await sink.close()


async def test_a_beginning_that_is_answered_without_a_model_is_tried_again(
    platform: PlatformServer, sink: PlatformSink, tmp_path: Path
) -> None:
    training = Training(tmp_path / "other", "r2")
    await sink.open_run(training.ref)
    platform.faults = Faults(lose_answers=1)
    events = training.begin()
    await refused_for_now(sink, training, events)
    await training.write(sink, events)
    # Platform has no key that would make a beginning repeatable: the first one is left behind.
    assert [model.slug for model in platform.models.values()] == ["name-of-r2", "name-of-r2-2"]
    await training.write(sink, [*training.epoch(0), training.feed.finished()])
    assert platform.models["m2"].status == "completed"


@pytest.mark.parametrize(
    "answer",
    [
        {"runId": {"a": 1}, "modelUrl": 5, "modelId": 7, "warning": ["x"], "cancelled": "yes"},
        {"runId": True, "modelUrl": None, "modelId": None, "ignored": {}, "reason": 3},
        {"warning": "w" * 100_000 + "\n\x1b[31m", "ignored": "stale_instance"},
    ],
)
async def test_odd_answers_change_nothing(
    platform: PlatformServer,
    sink: PlatformSink,
    training: Training,
    answer: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[str] = []
    sink.tell_stops_to(lambda run, reason: told.append(reason))
    platform.faults = Faults(answer=answer)
    await training.write(sink, [*training.epoch(1), *training.epoch(2)])
    platform.faults = Faults()
    await training.write(sink, [training.checkpoint(2, is_best=True), training.feed.finished()])
    assert platform.models["m1"].epochs == [0, 1, 2]
    assert platform.models["m1"].status == "completed"
    assert platform.models["m1"].weights is not None
    assert told == []
    assert all(len(record.getMessage()) < 1000 for record in caplog.records)


async def test_an_event_that_platform_refuses_costs_only_itself(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    platform.faults.refuse = lambda body: body["data"].get("content") == "poison"

    poison = training.feed.event("console", Console(["poison"]))
    with pytest.raises(PermanentSinkError, match="refused by the test"):
        await sink.write(training.ref, [poison], marks_of([poison]))
    await training.write(sink, [*training.epoch(1), training.feed.finished()])
    assert platform.models["m1"].epochs == [0, 1]
    assert platform.models["m1"].status == "completed"


async def test_an_epoch_that_is_refused_after_its_events_were_accepted_blames_no_others(
    platform: PlatformServer,
    sink: PlatformSink,
    training: Training,
    caplog: pytest.LogCaptureFixture,
) -> None:
    platform.faults.refuse = lambda body: body["data"].get("epoch") == 0
    await training.write(sink, training.epoch(1))
    assert platform.models["m1"].epochs == [1]
    assert "left out, and not sent again" in caplog.text
    assert sink.state()["refused"] == 1


async def test_a_run_that_platform_will_not_have_is_not_offered_for_every_event(
    platform: PlatformServer, workers: Workers, tmp_path: Path
) -> None:
    now = [1_767_225_600.0]
    sink = workers(clock=lambda: now[0])
    training = Training(tmp_path / "training")
    await sink.open_run(training.ref)
    platform.faults.refuse = lambda body: body["event"] == "training_started"
    for event in [*training.begin()[1:], *training.epoch(0), *training.epoch(1)]:
        with pytest.raises(PermanentSinkError, match="refused by the test"):
            await sink.write(training.ref, [event], marks_of([event]))
    assert len(platform.received) == 1
    platform.heal()
    now[0] += 61
    await training.write(sink, training.epoch(2))
    assert platform.models["m1"].names == ["training_started"]


async def test_a_model_deleted_on_platform_is_left_deleted(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    platform.models.clear()
    events = [*training.epoch(1), *training.epoch(2)]
    with pytest.raises(PermanentSinkError, match="404"):
        await sink.write(training.ref, events, marks_of(events))
    assert platform.models == {}


async def test_a_stop_is_passed_on_once_and_what_the_run_still_says_is_written(
    platform: PlatformServer,
    sink: PlatformSink,
    training: Training,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[tuple[RunRef, str]] = []
    sink.tell_stops_to(lambda run, reason: told.append((run, reason)))
    platform.models["m1"].is_stopped = True
    await training.write(sink, training.epoch(1))
    await training.write(sink, training.epoch(2))
    assert told == [(training.ref, "stopped on Ultralytics Platform")]
    assert (sink.state()["stopped"], sink.state()["stopped_runs"]) == (1, ["r1"])
    assert "stopped on Ultralytics Platform" in caplog.text
    await training.write(sink, [*training.epoch(3), training.feed.finished()])
    assert len(told) == 1
    assert platform.models["m1"].epochs == [0, 1, 2, 3]
    assert platform.models["m1"].status == "completed"


def _note(told: list[int], number: int, run: RunRef, reason: str) -> None:
    told.append(number)


async def test_a_worker_that_takes_over_passes_a_stop_on_again_but_not_for_ever(
    platform: PlatformServer, sink: PlatformSink, training: Training, workers: Workers
) -> None:
    # A notice that was not on its way yet is lost with the worker that was to send it.
    told: list[int] = []
    platform.models["m1"].is_stopped = True
    for number in range(1, 9):
        other = workers()
        other.tell_stops_to(partial(_note, told, number))
        await other.open_run(training.ref)
        await training.write(other, [*training.epoch(2 * number), *training.epoch(2 * number + 1)])
    assert told == [1, 2, 3, 4, 5]


async def test_a_stop_that_nobody_listened_to_is_passed_on_later(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    platform.models["m1"].is_stopped = True
    await training.write(sink, training.epoch(1))
    told: list[str] = []
    sink.tell_stops_to(lambda run, reason: told.append(run.run))
    await training.write(sink, training.epoch(2))
    assert told == ["r1"]


async def test_the_key_is_nowhere_but_in_requests(
    platform: PlatformServer,
    sink: PlatformSink,
    training: Training,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    said = [repr(sink), str(sink.state())]
    platform.faults = Faults(status=401)
    said.append(str(await refused_for_now(sink, training, training.epoch(1))))
    platform.faults = Faults(is_html=True)
    error = await refused_for_now(sink, training, training.epoch(1))
    said += [str(error), repr(error.__cause__), repr(error.__context__)]
    await asyncio.to_thread(platform.break_down)
    error = await refused_for_now(sink, training, training.epoch(1))
    said += [str(error), repr(error.__cause__)]
    await asyncio.to_thread(platform.heal)
    await training.write(sink, [training.checkpoint(0, is_best=True), training.feed.finished()])
    assert not any(KEY in text or KEY[3:] in text for text in said)
    assert KEY[3:] not in caplog.text
    assert all(
        f"Bearer {KEY}" == one.headers["Authorization"] for one in platform.events("epoch_end")
    )
    assert files_with(KEY[3:], tmp_path) == []


async def test_what_is_kept_is_not_that_of_another_program(
    platform: PlatformServer,
    sink: PlatformSink,
    training: Training,
    workers: Workers,
    tmp_path: Path,
) -> None:
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute(
            'update sink_state set value = replace(value, \'"attempt":1\', \'"attempt":"x"\')'
        )
    connection.close()
    other = workers()
    with pytest.raises(PermanentSinkError, match="damaged"):
        await other.open_run(training.ref)
