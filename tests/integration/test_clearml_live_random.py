"""Any run, any faults, any workers that take over: ClearML holds what it holds without them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.artifacts import ArtifactStore
from bus.errors import PermanentSinkError, SinkError
from bus.kinds import (
    Artifact,
    Blob,
    Checkpoint,
    Console,
    Image,
    Metrics,
    NonFinite,
    Number,
    Params,
    RunStatus,
    Summary,
    Table,
    Tags,
)
from tests.fixtures.feed import START, Feed
from tests.integration.clearml_feed import QUIET, make_live, task_of

if TYPE_CHECKING:
    from bus.events import Event
    from bus.sinks import Marks
    from subscribers.clearml.live import LiveSink
    from tests.fixtures.clearml.server import ClearmlServer

pytestmark = QUIET

RUNS = itertools.count()
KEYS = ["loss", "train/loss", "loss/loss", "a-b/c", "a/b-c", "\0/é", ":monitor:machine/x"]
VALUES: list[Number] = [0.5, -0.0, 7, 3e38, NonFinite.NAN, NonFinite.INFINITY, 1e308]
STEPS = [0, 1, 2, -1, -(2**31), 2**63 - 1]
KINDS = [
    *["metrics"] * 4,
    "params",
    "tags",
    "summary",
    "console",
    "image",
    "checkpoint",
    "artifact",
]
FAULTS = ["none", "none", "drop", "lost answer", "503", "429", "500/100", "400/121", "token"]


@dataclass(frozen=True)
class Said:
    """One thing that a rank says."""

    rank: int
    kind: str
    keys: tuple[str, ...]
    step: int
    values: tuple[Number, ...]


said = st.builds(
    Said,
    st.integers(0, 1),
    st.sampled_from(KINDS),
    st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True).map(tuple),
    st.sampled_from(STEPS),
    st.tuples(*[st.sampled_from(VALUES)] * 3),
)


@dataclass(frozen=True)
class Move:
    """What happens to one attempt to write.

    Attributes:
        events: So many are in the batch.
        fault: What goes wrong,
        skip: after so many calls.
        is_replaced: Another worker goes on then.
        is_kept_alive: The run is kept alive meanwhile.
    """

    events: int
    fault: str
    skip: int
    is_replaced: bool
    is_kept_alive: bool


moves = st.builds(
    Move,
    st.integers(1, 8),
    st.sampled_from(FAULTS),
    st.integers(0, 14),
    st.booleans(),
    st.booleans(),
)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def blob(tmp_path: Path) -> tuple[Blob, str]:
    file = tmp_path / "picture.png"
    file.write_bytes(b"bytes")
    return Feed("any", "any").stored(ArtifactStore((tmp_path / "store").as_uri()), file)


def run_of(
    name: str, sayings: Sequence[Said], statuses: Sequence[RunStatus], blob: tuple[Blob, str]
) -> list[Event]:
    """The events of a run of two ranks, its last ones the ends."""
    feeds = [Feed(name, "digits", rank) for rank in (0, 1)]
    events = [feed.started(2, tags={"team": "vision"}) for feed in feeds]
    events += [_event(feeds[one.rank], one, number, blob) for number, one in enumerate(sayings)]
    ends = zip(feeds, statuses, strict=True)
    return [*events, *(feed.finished(status, error=f"{status}!") for feed, status in ends)]


def _event(feed: Feed, one: Said, number: int, blob: tuple[Blob, str]) -> Event:
    if one.kind == "metrics":
        keys = list(one.keys)
        row: list[Number] = [START + number, one.step, *one.values[: len(keys)]]
        return feed.event("metrics", Metrics([Table(keys, [row])]))
    if one.kind == "params":
        return feed.event("params", Params("General", {one.keys[0]: number}))
    if one.kind == "tags":
        return feed.event("tags", Tags({one.keys[0]: str(number)}))
    if one.kind == "summary":
        return feed.event("summary", Summary({one.keys[0]: one.values[0]}))
    if one.kind == "image":
        return feed.event("image", Image(one.keys[0], "s", blob[0], one.step), blob[1])
    if one.kind == "checkpoint":
        return feed.event("checkpoint", Checkpoint(blob[0], epoch=number, is_best=True), blob[1])
    if one.kind == "artifact":
        return feed.event("artifact", Artifact(one.keys[0], blob[0]), blob[1])
    return feed.event("console", Console([f"line {number}"]))


class Group:
    """The workers of one run, one after the other."""

    def __init__(self, server: ClearmlServer, home: Path, events: list[Event]) -> None:
        self.server = server
        self.home = home
        self.events = events
        self.ref = Feed(events[0].run, "digits").ref
        self.sinks: list[LiveSink] = []

    async def take_over(self) -> Marks:
        if self.sinks:
            await self.sinks[-1].close()
        self.sinks.append(make_live(self.server, self.home, TRAINBUS_CLEARML_TIMEOUT="5"))
        return await self.sinks[-1].open_run(self.ref)

    async def write(self, plan: Sequence[Move]) -> Marks:
        """Write all of it; the moves come one after the other, and then all goes well."""
        marks = await self.take_over()
        following = iter(plan)
        while left := [e for e in self.events if not marks.is_applied(e.source, e.id)]:
            move = next(following, Move(5, "none", 0, False, False))
            self.begin(move)
            batch, after = left[: move.events], marks.copy()
            for event in batch:
                after.add_applied(event.source, event.id)
            keeping = asyncio.ensure_future(self.keep_alive(move))
            try:
                await self.sinks[-1].write(self.ref, batch, after)
                marks = after
            except PermanentSinkError:
                raise
            except SinkError:
                pass
            await keeping
            self.server.faults.clear()
            if move.is_replaced:
                held = await self.take_over()
                assert held in (after, marks)
                marks = held
        return marks

    async def keep_alive(self, move: Move) -> None:
        if move.is_kept_alive:
            try:
                await self.sinks[-1].keep_alive(self.ref)
            except PermanentSinkError:
                raise
            except SinkError:
                pass

    def begin(self, move: Move) -> None:
        faults = self.server.faults
        if move.fault in {"drop", "lost answer"}:
            faults.drop("*", 1, is_done=move.fault == "lost answer", skip=move.skip)
        elif move.fault == "token":
            faults.expire_tokens()
        elif move.fault != "none":
            status, _, subcode = move.fault.partition("/")
            faults.answer("*", int(status), 1, subcode=int(subcode or 0), skip=move.skip)


def what_is_there(server: ClearmlServer, group: Group) -> dict[str, Any]:
    task = task_of(server, group.ref)
    key = task["id"]
    params = server.hyperparams(key)
    own = params.pop("properties")
    names = ("nonfinite", "ranks", "tags", "error", "error.rank1", "checkpoint.last")
    models = server.models(key)
    return {
        "status": (task["status"], task["status_reason"]),
        "tags": sorted(tag for tag in task["tags"] if not tag.startswith("trainbus-run:")),
        "params": params,
        "own": {name: own.get(f"trainbus.{name}") for name in names},
        "scalars": repr(server.scalars(key)),
        "single values": repr(server.single_values(key)),
        "images": sorted(server.images(key)),
        "lines": sorted(set(server.console(key))),
        "models": {role: server.file(one["uri"]) for role, one in models.items()},
        "models made": sum(one["task"] == key for one in server.store.models.values()),
        "artifacts": sorted(server.artifacts(key)),
    }


@given(
    st.lists(said, max_size=14),
    st.tuples(*[st.sampled_from(["completed", "failed", "killed"])] * 2),
    st.lists(moves, max_size=20),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_goes_wrong_on_the_way_the_same_is_there_in_the_end(
    clearml_server: ClearmlServer,
    tmp_path: Path,
    loop: asyncio.AbstractEventLoop,
    blob: tuple[Blob, str],
    sayings: list[Said],
    statuses: tuple[RunStatus, RunStatus],
    plan: list[Move],
) -> None:
    number = next(RUNS)

    async def main() -> None:
        found = []
        for name, moves_of in ((f"plain {number}", []), (f"faulty {number}", plan)):
            events = run_of(name, sayings, statuses, blob)
            group = Group(clearml_server, tmp_path, events)
            marks = await group.write(moves_of)
            contents = await group.sinks[-1].contents(group.ref)
            assert contents is not None
            assert contents.marks == marks
            expected = set().union(*map(group.sinks[-1].expected_points, events))
            assert contents.points == len(expected)
            await group.sinks[-1].close()
            found.append(what_is_there(clearml_server, group))
        assert found[1] == found[0]

    loop.run_until_complete(main())
