"""A batch that broke off half-way and is cut otherwise when it is written again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bus.errors import PermanentSinkError, RetryableSinkError
from bus.kinds import Console
from subscribers.hub.platform.sink import PlatformSink
from tests.fixtures.platform import PlatformServer, running_platform
from tests.integration.platform_parts import Training, make_sink


@pytest.fixture
def platform() -> Iterator[PlatformServer]:
    with running_platform() as server:
        yield server


@pytest.fixture
async def sink(platform: PlatformServer, tmp_path: Path) -> AsyncIterator[PlatformSink]:
    sink = make_sink(platform, tmp_path)
    yield sink
    await sink.close()


async def test_an_epoch_is_left_as_it_was_said_last(
    platform: PlatformServer, sink: PlatformSink, tmp_path: Path
) -> None:
    training = Training(tmp_path / "training")
    await training.write(sink, [*training.begin(), training.row(0, a=1), training.row(1, a=1)])
    rows = [training.row(0, a=2), training.row(0, a=3)]
    weights = training.checkpoint(1)
    platform.faults.storage_status = 503
    with pytest.raises(RetryableSinkError):
        await training.write(sink, [*rows, weights])
    platform.heal()
    for event in (*rows, weights):
        await training.write(sink, [event])
    (model,) = platform.models.values()
    sent = [data["metrics"] for data in model.of("epoch_end") if data["epoch"] == 0]
    assert sent[-1] == {"a": 3}
    assert platform.refused == []


async def test_an_epoch_is_left_as_it_was_said_last_also_when_an_answer_is_lost(
    platform: PlatformServer, sink: PlatformSink, tmp_path: Path
) -> None:
    training = Training(tmp_path / "training")
    await training.write(sink, [*training.begin(), training.row(0, a=1), training.row(1, a=1)])
    rows = [training.row(0, a=2), training.row(0, a=3)]
    weights = training.checkpoint(1)
    platform.faults.storage_status = 503
    with pytest.raises(RetryableSinkError):
        await training.write(sink, [*rows, weights])
    platform.heal()
    platform.faults.lose_answers = 1
    with pytest.raises(RetryableSinkError):
        await training.write(sink, rows[:1])
    await sink.close()
    other = make_sink(platform, tmp_path)
    await other.open_run(training.ref)
    await training.write(other, rows)
    await other.close()
    (model,) = platform.models.values()
    assert [d["metrics"] for d in model.of("epoch_end") if d["epoch"] == 0][-1] == {"a": 3}


async def test_the_latest_of_two_best_checkpoints_stays_the_model(
    platform: PlatformServer, sink: PlatformSink, tmp_path: Path
) -> None:
    training = Training(tmp_path / "training")
    await training.write(sink, training.begin())
    weights = [
        training.checkpoint(epoch, f"weights {epoch}".encode(), f"{epoch}.pt", is_best=True)
        for epoch in (1, 2)
    ]
    refused = training.feed.event("console", Console(["what nobody wants"]))
    platform.faults.refuse = lambda body: body["event"] == "console_output"
    with pytest.raises(PermanentSinkError):
        await training.write(sink, [*weights, refused])
    # As the worker looks for the culprit.
    for event in weights:
        await training.write(sink, [event])
    with pytest.raises(PermanentSinkError):
        await training.write(sink, [refused])
    (model,) = platform.models.values()
    assert model.weights is not None
    assert model.weights.endswith("2.pt")
