"""The Platform sink against its stand-in: what is there after a run, and after its worker died."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.errors import MarksMovedError, PermanentSinkError, RetryableSinkError
from bus.kinds import Blob, Checkpoint, Console, Plot, System
from bus.sinks import Marks, RunRef
from subscribers.hub.platform.sink import PlatformSink
from tests.fixtures.feed import Feed, marks_of
from tests.fixtures.platform import PlatformServer, running_platform
from tests.integration.platform_parts import Training, make_sink

Workers = Callable[..., PlatformSink]

WHOLE = ["training_started", *["epoch_end"] * 3, "checkpoint_saved", "training_complete"]


@pytest.fixture
def platform() -> Iterator[PlatformServer]:
    with running_platform() as server:
        yield server
        assert server.refused == []


@pytest.fixture
async def workers(platform: PlatformServer, tmp_path: Path) -> AsyncIterator[Workers]:
    """Makes sinks of other workers, and closes them."""
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
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "training")


async def test_a_whole_run_is_there_once_after_it_was_replayed_twice(
    platform: PlatformServer, sink: PlatformSink, training: Training, workers: Workers
) -> None:
    events = training.whole()
    assert await sink.open_run(training.ref) == Marks()
    await training.write(sink, events)
    for _ in range(2):
        other = workers()
        assert await other.open_run(training.ref) == marks_of(events)
        await other.write(training.ref, events, marks_of(events))
    (model,) = platform.models.values()
    assert model.names == WHOLE
    assert model.epochs == [0, 1, 2]
    assert (model.project, model.slug, model.status) == ("me/proj", "name-of-r1", "completed")
    assert model.weights is not None
    assert model.files[model.weights] == (7, hashlib.sha256(b"weights").hexdigest())
    results = model.of("training_complete")[0]["results"]
    assert (results["modelPath"], results["modelSize"]) == (model.weights, 7)
    contents = await sink.contents(training.ref)
    assert contents is not None
    assert contents.marks == marks_of(events)
    assert contents.url == f"{platform.url}/me/proj/name-of-r1"


async def test_event_by_event_platform_learns_the_same(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    for event in training.whole():
        await training.write(sink, [event])
    assert platform.models["m1"].names == WHOLE
    assert platform.models["m1"].epochs == [0, 1, 2]


async def test_nothing_is_asked_of_platform_to_open_a_run_or_for_what_no_run_has(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    await sink.open_run(training.ref)
    await sink.write(training.ref, [], Marks())
    assert await sink.contents(RunRef("p", "nobody", "nobody")) is None
    assert platform.received == []


async def test_another_worker_takes_over_in_the_middle_of_an_epoch(
    platform: PlatformServer, sink: PlatformSink, training: Training, workers: Workers
) -> None:
    events = training.whole()
    await sink.open_run(training.ref)
    await training.write(sink, events[:7])
    assert platform.models["m1"].epochs == [0, 1]
    other = workers()
    assert await other.open_run(training.ref) == marks_of(events[:7])
    await training.write(other, events[7:])
    assert platform.models["m1"].names == WHOLE
    last = platform.models["m1"].of("epoch_end")[2]
    assert last["metrics"].keys() == {"loss", "accuracy"}
    # The first worker was only paused: it must not undo what the other did.
    with pytest.raises(MarksMovedError):
        await sink.write(training.ref, events[7:], training.marks)
    assert platform.models["m1"].names == WHOLE


async def test_a_worker_killed_between_two_requests_repeats_none_of_those_it_noted(
    platform: PlatformServer, sink: PlatformSink, training: Training, workers: Workers
) -> None:
    events = training.whole()
    await sink.open_run(training.ref)
    platform.faults.refuse = lambda body: body.get("data", {}).get("epoch") == 2
    with pytest.raises(PermanentSinkError):
        await sink.write(training.ref, events, marks_of(events))
    platform.faults.refuse = lambda body: False
    assert platform.models["m1"].epochs == [0, 1]
    # Nothing of the batch is marked; what was told is known nevertheless.
    other = workers()
    assert await other.open_run(training.ref) == Marks()
    for event in events:
        await training.write(other, [event])
    assert platform.models["m1"].names == WHOLE
    platform.refused.clear()


async def test_an_answer_that_is_lost_repeats_that_request_and_no_other(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    events = training.whole()
    await sink.open_run(training.ref)
    await training.write(sink, events[:5])
    platform.faults.lose_answers = 1
    with pytest.raises(RetryableSinkError):
        await sink.write(training.ref, events[5:], marks_of(events))
    await training.write(sink, events[5:])
    assert platform.models["m1"].epochs == [0, 1, 1, 2]
    assert [one for one in platform.models["m1"].names if one != "epoch_end"] == [
        one for one in WHOLE if one != "epoch_end"
    ]


async def test_two_runs_of_one_name_do_not_mix(
    platform: PlatformServer, sink: PlatformSink, tmp_path: Path
) -> None:
    trainings = [Training(tmp_path / name, name) for name in ("r1", "r2")]
    for training in trainings:
        training.ref = RunRef("me/proj", training.ref.run, "same name")
        await sink.open_run(training.ref)
    runs = [training.whole() for training in trainings]
    for pair in zip(*runs, strict=True):
        await asyncio.gather(
            *(t.write(sink, [event]) for t, event in zip(trainings, pair, strict=True))
        )
    assert sorted(model.slug for model in platform.models.values()) == ["same-name", "same-name-2"]
    assert all(model.names == WHOLE for model in platform.models.values())


async def test_a_failed_run_says_why_and_a_killed_one_that_it_was(
    platform: PlatformServer, sink: PlatformSink, tmp_path: Path
) -> None:
    for status in ("failed", "killed"):
        training = Training(tmp_path / status, status)
        end = training.feed.finished(status, error="out of memory")
        await sink.open_run(training.ref)
        await training.write(sink, [*training.begin(), *training.epoch(0), end])
    texts = [model.of("training_failed")[0]["error"] for model in platform.models.values()]
    assert texts == ["out of memory", "killed: out of memory"]
    assert all(model.epochs == [0] for model in platform.models.values())


async def test_a_run_that_is_resumed_goes_on_with_its_model(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    await sink.open_run(training.ref)
    await training.write(sink, [*training.begin(), *training.epoch(0), *training.epoch(1)])
    await training.write(sink, [training.feed.finished("killed")])
    training.feed = Feed("r1", "me/proj", attempt=2)
    await training.write(sink, [*training.begin(), *training.epoch(1), *training.epoch(2)])
    await training.write(sink, [training.feed.finished()])
    (model,) = platform.models.values()
    assert model.epochs == [0, 1, 1, 2]
    assert model.names.count("training_started") == 2
    assert model.status == "completed"


@pytest.mark.parametrize("why", ["gone", "stopped"])
async def test_a_resumed_run_whose_model_is_gone_or_was_stopped_begins_a_new_one(
    platform: PlatformServer, sink: PlatformSink, training: Training, why: str
) -> None:
    told: list[str] = []
    sink.tell_stops_to(lambda run, reason: told.append(run.run))
    await sink.open_run(training.ref)
    await training.write(sink, [*training.begin(), *training.epoch(0)])
    if why == "gone":
        platform.models["m9"] = platform.models.pop("m1")
        platform.models["m9"].model_id = "m9"
    else:
        platform.models["m1"].is_stopped = True
        await training.write(sink, training.epoch(1))
    training.feed = Feed("r1", "me/proj", attempt=2)
    await training.write(sink, [*training.begin(), *training.epoch(1)])
    await training.write(sink, [training.feed.finished()])
    assert len(platform.models) == 2
    new = platform.models["m2"]
    assert new.status == "completed"
    assert told == (["r1"] if why == "stopped" else [])
    # The last epoch of the old attempt had no model to go to.
    assert new.epochs == [1]
    platform.refused.clear()


async def test_only_the_best_weights_become_the_model(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    await sink.open_run(training.ref)
    await training.write(sink, [*training.begin(), *training.epoch(0)])
    made = [
        training.checkpoint(0, b"first", name="last.pt"),
        training.checkpoint(1, b"best", is_best=True),
        training.checkpoint(2, b"worse", name="last.pt"),
    ]
    for event in made:
        await training.write(sink, [event])
    model = platform.models["m1"]
    assert platform.uploads["m1"] == 2
    assert model.files[str(model.weights)] == (4, hashlib.sha256(b"best").hexdigest())
    contents = await sink.contents(training.ref)
    assert contents is not None
    assert str(contents.marks.superseded[training.feed.source]) == str(made[2].id)


async def test_a_plot_that_is_data_goes_with_the_end(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    training.folder.mkdir()
    events = training.begin()
    texts = {
        "pr.json": '{"type":"pr_curve","x":[0,1],"y":[1,0]}',
        "list.json": "[1]",
        "no.json": "{",
    }
    for name, text in texts.items():
        (training.folder / name).write_text(text)
        blob, url = training.feed.stored(training.store, training.folder / name)
        events.append(training.feed.event("plot", Plot("curves", name, blob), url))
    gone = Blob("gone.json", 3, "0" * 64)
    missing = (training.folder / "store").as_uri() + "/00/nothing"
    events.append(training.feed.event("plot", Plot("curves", "gone", gone), missing))
    await sink.open_run(training.ref)
    await training.write(sink, [*events, training.feed.finished()])
    plots = platform.models["m1"].of("training_complete")[0]["plots"]
    assert plots == [{"type": "pr_curve", "x": [0, 1], "y": [1, 0]}]


async def test_console_output_and_readings_are_there(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    await sink.open_run(training.ref)
    console = training.feed.event("console", Console(["epoch 1", "epoch 2"]))
    system = training.feed.event("system", System({"cpu.percent": 12.5}))
    await training.write(sink, [*training.begin(), console, system, *training.epoch(0)])
    await training.write(sink, [training.feed.finished()])
    model = platform.models["m1"]
    assert model.of("console_output")[0]["content"] == "epoch 1\nepoch 2"
    assert model.of("epoch_end")[0]["system"] == {"cpu": 12.5, "gpus": {}}


async def test_an_epoch_that_waits_for_nothing_but_the_next_is_sent_in_time(
    platform: PlatformServer, workers: Workers, training: Training
) -> None:
    now = [1_767_225_600.0]
    sink = workers(clock=lambda: now[0])
    await sink.open_run(training.ref)
    await training.write(sink, [*training.begin(), *training.epoch(0)])
    await sink.keep_alive(training.ref)
    assert platform.models["m1"].epochs == []
    await sink.close_run(training.ref)
    now[0] += 61
    await sink.keep_alive(training.ref)
    assert platform.models["m1"].epochs == [0]
    await sink.keep_alive(training.ref)
    # An epoch that lacks what the one before it had is given longer: an evaluation takes its time.
    await training.write(sink, training.epoch(1)[:1])
    now[0] += 61
    await sink.keep_alive(training.ref)
    assert platform.models["m1"].epochs == [0]
    now[0] += 900
    await sink.keep_alive(training.ref)
    assert platform.models["m1"].epochs == [0, 1]
    # Nothing is remembered of a run that is not open.
    await sink.close_run(training.ref)
    await sink.keep_alive(training.ref)
    assert (sink._states, sink._locks) == ({}, {})


async def test_a_checkpoint_whose_file_is_gone_is_refused_without_a_request(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    await sink.open_run(training.ref)
    await training.write(sink, training.begin())
    before = len(platform.received)
    url = (training.folder / "store").as_uri() + "/00/nothing"
    (training.folder / "store").mkdir(parents=True)
    blob = Blob("best.pt", 3, "0" * 64)
    event = training.feed.event("checkpoint", Checkpoint(blob, epoch=1), url)
    with pytest.raises(PermanentSinkError, match="no longer has it"):
        await training.write(sink, [event])
    assert len(platform.received) == before
