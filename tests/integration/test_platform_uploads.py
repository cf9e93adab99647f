"""Uploads of checkpoints to Platform's storage, and what goes wrong there."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.errors import PermanentSinkError, RetryableSinkError, SinkError
from bus.events import Event
from subscribers.hub.platform.sink import PlatformSink
from tests.fixtures.feed import marks_of
from tests.fixtures.platform import Faults, PlatformServer, running_platform
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


async def test_a_checkpoint_whose_upload_breaks_off_is_uploaded_again(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    platform.faults = Faults(drop_put_after=100_000)
    content = b"w" * 4_000_000
    event = training.checkpoint(0, content, is_best=True)
    error = await refused_for_now(sink, training, [event])
    assert "Platform's storage at http://127.0.0.1" in str(error)
    assert "Signature" not in str(error)
    platform.faults = Faults()
    await training.write(sink, [event])
    model = platform.models["m1"]
    assert model.files[str(model.weights)][0] == len(content)
    assert model.names.count("checkpoint_saved") == 1


async def test_a_checkpoint_that_platform_does_not_take_over_is_uploaded_anew(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    event = training.checkpoint(0, is_best=True)
    platform.faults.refuse = lambda body: body["event"] == "checkpoint_saved"
    with pytest.raises(SinkError) as caught:
        await sink.write(training.ref, [event], marks_of([event]))
    # Not a PermanentSinkError: what is only uploaded is kept for a time, and may be gone.
    assert type(caught.value) is SinkError
    platform.faults = Faults()
    await training.write(sink, [event])
    assert platform.uploads["m1"] == 2
    assert platform.models["m1"].weights is not None


async def test_a_worker_killed_between_upload_and_telling_does_not_upload_again(
    platform: PlatformServer, sink: PlatformSink, training: Training, workers: Workers
) -> None:
    event = training.checkpoint(0, is_best=True)

    def breaks_down(body: dict[str, Any]) -> bool:
        if body["event"] == "checkpoint_saved":
            platform.faults.lose_answers = 1
        return False

    platform.faults.refuse = breaks_down
    await refused_for_now(sink, training, [event])
    platform.faults = Faults()
    other = workers()
    await other.open_run(training.ref)
    await training.write(other, [event])
    assert platform.uploads["m1"] == 1
    assert platform.models["m1"].weights is not None


@pytest.mark.parametrize("status", [301, 400, 403, 404, 500, 503])
async def test_a_storage_that_refuses_says_so_without_what_is_signed(
    platform: PlatformServer, sink: PlatformSink, training: Training, status: int
) -> None:
    platform.faults = Faults(storage_status=status)
    event = training.checkpoint(0, is_best=True)
    with pytest.raises(SinkError) as caught:
        await sink.write(training.ref, [event], marks_of([event]))
    assert not isinstance(caught.value, PermanentSinkError)
    assert str(status) in str(caught.value)
    assert "s1gned" not in str(caught.value)
    assert "Signature" not in str(caught.value)
    # A redirect is not followed.
    assert not any(one.path == "/elsewhere" for one in platform.received)


@pytest.mark.parametrize(
    "url",
    [
        "http://storage.example.com/put?X-Signature=s1gned",
        "ftp://127.0.0.1/put",
        "file:///etc/passwd",
        "https://user:s1gned@storage.example.com/put",
        "https:///put",
        "https://storage.example.com/a b",
        "https://storage.example.com/a\r\nX: y",
        "https://[::1/put",
        "nothing",
    ],
)
async def test_bytes_are_sent_to_no_place_but_one_over_tls(
    platform: PlatformServer, sink: PlatformSink, training: Training, url: str
) -> None:
    platform.faults = Faults(upload_url=url)
    event = training.checkpoint(0, is_best=True)
    with pytest.raises(SinkError, match="names a place to upload to") as caught:
        await sink.write(training.ref, [event], marks_of([event]))
    assert "s1gned" not in str(caught.value)
    assert not any(one.method == "PUT" for one in platform.received)


async def test_a_large_checkpoint_is_uploaded_in_constant_memory(
    platform: PlatformServer, sink: PlatformSink, training: Training
) -> None:
    size = 150_000_000
    event = training.checkpoint(0, b"w" * size, is_best=True)
    # The store keeps what the training wrote: from here on nobody needs it in memory.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await training.write(sink, [event])
    model = platform.models["m1"]
    assert model.files[str(model.weights)][0] == size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000
