"""A worker killed at any point of a write: its successor repeats one request at the most."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.sinks import Marks
from subscribers.hub.platform.sink import PlatformSink
from subscribers.hub.state import StateStore
from tests.fixtures.feed import marks_of
from tests.fixtures.platform import Model, PlatformServer, running_platform
from tests.integration.platform_parts import Training, make_sink

_SAVES = 7
"""Of a whole run in one batch: five requests and an upload that are noted, and the end of all."""


Workers = Callable[[], PlatformSink]


class Killed(BaseException):
    """What no code of ours catches."""


@pytest.fixture
def platform() -> Iterator[PlatformServer]:
    with running_platform() as server:
        yield server
        assert server.refused == []


@pytest.fixture
async def workers(platform: PlatformServer, tmp_path: Path) -> AsyncIterator[Workers]:
    made: list[PlatformSink] = []

    def make() -> PlatformSink:
        made.append(make_sink(platform, tmp_path))
        return made[-1]

    yield make
    for sink in made:
        await sink.close()


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int, *, is_before: bool) -> list[int]:
    """Die before or after the save of this number of what is kept of a run.

    Returns:
        The saves so far.
    """
    original = StateStore.save
    saves: list[int] = []

    async def save(self: StateStore, run: Any, record: Any, marks: Any = None, **f: Any) -> None:
        is_counted = bool(run.project)
        if is_counted:
            saves.append(len(saves))
        if is_counted and is_before and len(saves) == number:
            raise Killed
        await original(self, run, record, marks, **f)
        if is_counted and len(saves) == number:
            raise Killed

    monkeypatch.setattr(StateStore, "save", save)
    return saves


def check(model: Model, *, repeats: int) -> None:
    assert sorted(set(model.epochs)) == [0, 1, 2]
    assert model.status == "completed"
    assert model.weights is not None
    kinds = Counter(
        (name, data.get("epoch")) for name, data in model.events if name != "training_started"
    )
    assert sum(kinds.values()) - len(kinds) <= repeats


@pytest.mark.parametrize("is_before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, _SAVES + 1))
async def test_a_whole_batch(
    platform: PlatformServer,
    workers: Workers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    is_before: bool,
) -> None:
    training = Training(tmp_path / "training")
    events = training.whole()
    killed = workers()
    await killed.open_run(training.ref)
    with monkeypatch.context() as patch:
        saves = kill_at(patch, number, is_before=is_before)
        with pytest.raises(Killed):
            await training.write(killed, events)
    assert len(saves) == number
    other = workers()
    known = await other.open_run(training.ref)
    await training.write(other, events)
    contents = await other.contents(training.ref)
    assert contents is not None
    assert contents.marks == marks_of(events)
    # Only a beginning whose answer nobody noted makes a second model; the first is left behind.
    has_lost_beginning = number == 1 and is_before
    assert len(platform.models) == (2 if has_lost_beginning else 1)
    check(list(platform.models.values())[-1], repeats=1 if is_before else 0)
    assert sum(platform.uploads.values()) <= (2 if is_before else 1)
    assert known in (Marks(), marks_of(events))


@pytest.mark.parametrize("is_before", [True, False], ids=["before", "after"])
async def test_every_batch_of_a_run_at_its_end(
    platform: PlatformServer,
    workers: Workers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_before: bool,
) -> None:
    """One event at a time, and each time the worker dies around its first save."""
    training = Training(tmp_path / "training")
    events = training.whole()
    for event in events:
        for patched in (True, False):
            sink = workers()
            marks = await sink.open_run(training.ref)
            marks.add_applied(event.source, event.id)
            with monkeypatch.context() as patch:
                if patched:
                    kill_at(patch, 1, is_before=is_before)
                    with pytest.raises(Killed):
                        await sink.write(training.ref, [event], marks)
                else:
                    await sink.write(training.ref, [event], marks)
    model = list(platform.models.values())[-1]
    check(model, repeats=len(events) if is_before else 0)
    assert max(Counter(model.epochs).values()) <= 2


async def test_a_cancelled_write_goes_on_with_the_same_sink(
    platform: PlatformServer, workers: Workers, tmp_path: Path
) -> None:
    training = Training(tmp_path / "training")
    events = training.whole()
    sink = workers()
    await sink.open_run(training.ref)
    for _ in range(30):
        writing = asyncio.create_task(sink.write(training.ref, events, marks_of(events)))
        await asyncio.sleep(0.005)
        if writing.done():
            break
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    await training.write(sink, events)
    check(list(platform.models.values())[-1], repeats=30)
