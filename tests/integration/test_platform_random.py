"""Any training, any faults, any workers that take over: Platform has all of it in the end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.errors import MarksMovedError, PermanentSinkError, SinkError
from bus.events import Event
from bus.kinds import Console, Metrics, NonFinite, Number, Params, Summary, System, Table
from bus.sinks import Marks
from subscribers.hub.platform.sink import PlatformSink
from subscribers.hub.platform.windows import Plan
from tests.fixtures.feed import START
from tests.fixtures.platform import Model, PlatformServer, running_platform
from tests.integration.platform_parts import Training, make_sink

RUNS = itertools.count()
KEYS = ["loss", "acc", "val", "fitness", "best_fitness", "lr/pg0", "model/parameters", "é\0"]
VALUES: list[Number] = [0, 1, 2, 0.5, -0.0, -3, 1e308, 2**64 - 1, -(2**63), NonFinite.NAN]
VALUES += [NonFinite.NEGATIVE_INFINITY]
KINDS = ["row", "row", "row", "row", "checkpoint", "params", "summary", "system", "console"]
FAULTS = ["none", "none", "lost answer", "503", "429", "409", "storage", "cancel"]
PLENTY = Plan(10**6, 10**9)


@dataclass(frozen=True)
class Said:
    """One thing that a training says."""

    kind: str
    keys: tuple[str, ...]
    step: int
    values: tuple[Number, ...]
    is_best: bool


@dataclass(frozen=True)
class Move:
    """What happens to one attempt to write.

    Attributes:
        events: So many are in the batch.
        fault: What goes wrong.
        is_replaced: Another worker goes on then.
        is_kept_alive: The run is kept alive meanwhile, an hour later by its clock.
    """

    events: int
    fault: str
    is_replaced: bool
    is_kept_alive: bool


said = st.builds(
    Said,
    st.sampled_from(KINDS),
    st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True).map(tuple),
    st.sampled_from([0, 1, 2, 3, -1, 2**63 - 1]),
    st.tuples(*[st.sampled_from(VALUES)] * 4),
    st.booleans(),
)
moves = st.builds(Move, st.integers(1, 8), st.sampled_from(FAULTS), st.booleans(), st.booleans())


@pytest.fixture
def platform() -> Iterator[PlatformServer]:
    with running_platform() as server:
        yield server


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def events_of(training: Training, sayings: Sequence[Said]) -> list[Event]:
    feed = training.feed
    events = [feed.started()]
    for number, one in enumerate(sayings):
        row: list[Number] = [START + number, one.step, *one.values[: len(one.keys)]]
        pairs = dict(zip(one.keys, one.values, strict=False))
        if one.kind == "row":
            events.append(feed.event("metrics", Metrics([Table(list(one.keys), [row])])))
        elif one.kind == "checkpoint":
            content = f"weights {number}".encode()
            events.append(
                training.checkpoint(one.step, content, is_best=one.is_best, fitness=one.values[0])
            )
        elif one.kind == "params":
            events.append(feed.event("params", Params("General", {one.keys[0]: number})))
        elif one.kind == "summary":
            events.append(feed.event("summary", Summary(pairs)))
        elif one.kind == "system":
            events.append(feed.event("system", System(pairs)))
        else:
            events.append(feed.event("console", Console([f"line {number}", one.keys[0]])))
    return [*events, feed.finished()]


class Group:
    """The workers of one run, one after the other."""

    def __init__(self, platform: PlatformServer, home: Path, training: Training) -> None:
        self.platform = platform
        self.home = home
        self.ref = training.ref
        self.now = START
        self.sink: PlatformSink | None = None

    async def take_over(self) -> Marks:
        if self.sink is not None:
            await self.sink.close()
        self.sink = make_sink(self.platform, self.home, PLENTY, clock=lambda: self.now)
        return await self.sink.open_run(self.ref)

    async def write(self, events: Sequence[Event], plan: Sequence[Move]) -> Marks:
        marks = await self.take_over()
        assert self.sink is not None
        following = iter(plan)
        attempts = 0
        while left := [e for e in events if not marks.is_applied(e.source, e.id)]:
            attempts += 1
            assert attempts < 100, "never done"
            move = next(following, Move(6, "none", False, False))
            self.now += 3600.0 if move.is_kept_alive else 1.0
            self.begin(move)
            batch, after = left[: move.events], marks.copy()
            for event in batch:
                after.add_applied(event.source, event.id)
            keeping = asyncio.ensure_future(self.keep_alive(move))
            try:
                await self.attempt(batch, after, move)
                marks = after
            except PermanentSinkError:
                raise
            except MarksMovedError:
                marks = await self.sink.open_run(self.ref)
            except (SinkError, asyncio.CancelledError):
                pass
            await keeping
            self.platform.heal()
            if move.is_replaced:
                marks = await self.take_over()
        return marks

    async def attempt(self, batch: Sequence[Event], after: Marks, move: Move) -> None:
        assert self.sink is not None
        writing = asyncio.create_task(self.sink.write(self.ref, batch, after))
        if move.fault == "cancel":
            await asyncio.sleep(0.003 * move.events)
            writing.cancel()
        await writing

    async def keep_alive(self, move: Move) -> None:
        assert self.sink is not None
        if move.is_kept_alive:
            try:
                await self.sink.keep_alive(self.ref)
            except PermanentSinkError:
                raise
            except SinkError:
                pass

    def begin(self, move: Move) -> None:
        faults = self.platform.faults
        if move.fault == "lost answer":
            faults.lose_answers = 1
        elif move.fault == "storage":
            faults.storage_status = 500
        elif move.fault.isdecimal():
            faults.status = int(move.fault)


def folded(model: Model) -> dict[str, Any]:
    """What a person sees of a model in the end."""
    epochs: dict[int, dict[str, Any]] = {}
    for data in model.of("epoch_end"):
        epochs.setdefault(data["epoch"], {}).update(data["metrics"])
    ends = [(name, data) for name, data in model.events if name.startswith("training_")]
    last = dict(ends[-1][1].get("results", {}))
    last.pop("modelPath", None)
    weights = model.files.get(model.weights or "")
    return {
        "epochs": epochs,
        "console": {data["chunkId"]: data["content"] for data in model.of("console_output")},
        "end": (ends[-1][0], repr(last)),
        "weights": weights is not None,
    }


@given(st.lists(said, max_size=14), st.lists(moves, max_size=14))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_goes_wrong_on_the_way_the_same_is_there_in_the_end(
    platform: PlatformServer,
    tmp_path: Path,
    loop: asyncio.AbstractEventLoop,
    sayings: list[Said],
    plan: list[Move],
) -> None:
    number = next(RUNS)

    async def main() -> None:
        found = []
        for name, moves_of in ((f"plain{number}", []), (f"faulty{number}", plan)):
            training = Training(tmp_path / "training", name)
            events = events_of(training, sayings)
            group = Group(platform, tmp_path, training)
            marks = await group.write(events, moves_of)
            assert group.sink is not None
            contents = await group.sink.contents(training.ref)
            assert contents is not None
            assert contents.marks.applied == marks.applied
            assert not contents.marks.dead
            await group.sink.close()
            models = [m for m in platform.models.values() if name in m.slug]
            found.append(folded(models[-1]))
        assert platform.refused == []
        assert found[1] == found[0]

    loop.run_until_complete(main())
