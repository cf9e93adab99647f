"""Runs under limits of all sorts, with faults and workers that are replaced, in virtual time.

Whatever happens before, in the end every event is written once, superseded or a dead letter, in the
order that its kind allows, every message is acknowledged, and no limit was exceeded on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from bus.errors import LogError, MarksMovedError, PermanentSinkError, RetryableSinkError
from bus.events import Event, decode
from bus.idranges import IdRanges
from bus.kinds import Checkpoint
from bus.ratelimit import Rate, RateLimits
from bus.sinks import BatchLimits, Marks, RunRef
from bus.topics import Topics
from tests.fixtures.limitbench import Bench, CountingSink
from tests.fixtures.roadparts import event_bytes, source_of
from tests.fixtures.virtualtime import run_virtual

RUNS = ["r1", "r2"]
POISON = {"n": "poison"}
KINDS = ["tags", "metrics", "params", "checkpoint"]
FAULTS = ["transient", "asked", "lost answer", "unknown", "log", "replace"]
LONG_SECONDS = 3 * 3600.0

rates = st.sampled_from(["1/min", "6/min", "1/s", "30/min burst 5"])
limits = st.builds(
    lambda sink, run, kinds: RateLimits(sink, run, kinds),
    st.none() | st.sampled_from(["2/s", "20/min burst 3"]).map(Rate.parse),
    st.none() | st.sampled_from(["1/s", "20/min"]).map(Rate.parse),
    st.dictionaries(st.sampled_from(KINDS), rates.map(Rate.parse), max_size=3),
)


@dataclass(frozen=True)
class Step:
    """An event of a run, and what comes before the next.

    Attributes:
        flags: Of a checkpoint.
        is_poison: The sink never takes it.
        is_lost: The bus loses it: only the log has it.
    """

    run: str
    kind: str
    flags: str
    is_poison: bool
    is_lost: bool
    wait_seconds: float
    fault: str


steps = st.builds(
    Step,
    st.sampled_from(RUNS),
    st.sampled_from([*KINDS, "checkpoint", "checkpoint"]),
    st.sampled_from(["", "", "best", "final", "other"]),
    st.integers(0, 9).map(lambda n: n == 0),
    st.integers(0, 5).map(lambda n: n == 0),
    st.sampled_from([0.0, 0.0, 0.0, 0.3, 2.0, 6.0, 70.0]),
    st.sampled_from([*[""] * 8, *FAULTS]),
)


class Sink(CountingSink):
    """Takes what it is given once, on the condition that nobody has written since."""

    limits = BatchLimits(events=4)

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.had_unknown = False
        self.moved: set[str] = set()
        """Runs that were written to without an answer."""
        self.poison: set[tuple[str, int]] = set()
        self.kinds_of: list[tuple[float, str, set[str]]] = []

    async def open_run(self, run: RunRef) -> Marks:
        self._fail()
        self.moved.discard(run.run)
        return await super().open_run(run)

    async def write(self, run: RunRef, events: Sequence[Event], marks: Marks) -> None:
        if events:
            now = asyncio.get_running_loop().time()
            limited = {e.kind for e in events if not _is_final(e)}
            self.kinds_of.append((now, run.run, limited))
        if run.run in self.moved:
            raise MarksMovedError("an answer was lost")
        fault = self._fail()
        if self.poison.intersection((e.source, e.id) for e in events):
            raise PermanentSinkError("poison")
        await super().write(run, events, marks)
        if fault == "lost answer":
            self.moved.add(run.run)
            raise RetryableSinkError("no answer")

    def _fail(self) -> str:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "transient":
            raise RetryableSinkError("away")
        if fault == "asked":
            raise RetryableSinkError("slowly", 20.0)
        if fault == "unknown" and not self.had_unknown:
            self.had_unknown = True
            raise ValueError("odd")
        return fault


def _is_final(event: Event) -> bool:
    return isinstance(event.data, Checkpoint) and event.data.is_final


class World(Bench):
    """A bench with that sink, of which the bus may lose messages."""

    def __init__(self, limits: RateLimits) -> None:
        super().__init__(limits)
        self.sink = Sink()
        self.consumer = self.make()
        self.said: dict[str, list[Event]] = {run: [] for run in RUNS}

    def say(self, run: str, kind: str, data: Any, *, is_lost: bool, is_poison: bool) -> None:
        source = source_of(run)
        self.last[run] += 1
        blob: dict[str, Any] = {"dataref": "file:///store/1"} if kind == "checkpoint" else {}
        raw = event_bytes(self.last[run], kind, data, run, **blob)
        self.said[run].append(decode(raw))
        self.log.events.setdefault(source, {})[self.last[run]] = raw
        self.log.changed[source] = self.loop.time()
        if is_poison:
            cast("Sink", self.sink).poison.add((source, self.last[run]))
        if not is_lost:
            self.send(Topics().event("digits", run, kind), raw)
            stored = IdRanges([(1, self.last[run])])
            self.consumer._pumps["digits", run].feed.stored(source, stored)

    def step(self, step: Step) -> None:
        data: Any = None
        if step.kind == "metrics":
            data = {"tables": [{"keys": ["a"], "rows": [[0.5, 1, 2.0]]}]}
        elif step.kind == "params":
            data = {"section": "General", "params": {"a": 1}}
        elif step.kind == "checkpoint":
            name = "other.pt" if step.flags == "other" else "last.pt"
            blob = {"name": name, "size": 1, "sha256": "0" * 64}
            data = {"blob": blob, "best": step.flags == "best", "final": step.flags == "final"}
        self.say(step.run, step.kind, data, is_lost=step.is_lost, is_poison=step.is_poison)

    async def go_wrong(self, fault: str) -> None:
        if fault == "log":
            self.log.errors.append(LogError("away"))
        elif fault == "replace":
            await self.replace()
        elif fault:
            cast("Sink", self.sink).faults.append(fault)


def check(world: World) -> None:
    for run in RUNS:
        check_run(world, run)
    assert world.unacknowledged() == 0, "some message was never acknowledged"
    assert world.consumer.report()["lag"] == 0
    assert world.consumer.report()["rate_waiting_runs"] == 0
    check_limits(world)


def check_run(world: World, run: str) -> None:
    source, said = source_of(run), {event.id: event for event in world.said[run]}
    marks, written = world.sink.marks[run], world.written(run)
    dead = {n for n in said if marks.is_dead(source, n)}
    gone = {n for a, b in marks.superseded.get(source, IdRanges()) for n in range(a, b + 1)}
    assert set(said) == {n for n in said if marks.is_applied(source, n)}, "not all is applied"
    assert sorted([*written, *dead, *gone]) == sorted(said), "lost, or twice"
    poison = {n for name, n in cast("Sink", world.sink).poison if name == source}
    assert dead == poison - gone, "given up without need"
    assert {said[n].kind for n in gone} <= {"checkpoint"}
    if written:
        assert 1 in dead or written[0] == 1, "something overtook the beginning"
    last = max(said)
    assert last in dead or written[-1] == last, "something came after the end"
    for kind in KINDS:
        ids = [n for n in written if said[n].kind == kind and not _is_final(said[n])]
        assert ids == sorted(ids), f"{kind}: out of order"
    for number in gone:
        data = cast("Checkpoint", said[number].data)
        later = [
            cast("Checkpoint", said[n].data)
            # That it would become a dead letter was not known then.
            for n in (*written, *dead)
            if n > number and said[n].kind == "checkpoint"
        ]
        same = [one for one in later if one.is_final or one.blob.name == data.blob.name]
        assert not data.is_final
        assert any(one.is_best or one.is_final for one in same) if data.is_best else same, (
            "nothing took its place"
        )


def check_limits(world: World) -> None:
    """In no stretch of time more than the limit allows."""
    sink = cast("Sink", world.sink)
    for kind, rate in world.limits.kinds.items():
        # The search for a culprit, and a try after an unknown error, belong to the same write.
        searched = {name.split("/")[2] for name, _ in sink.poison}
        for run in set(RUNS) - searched if not sink.had_unknown else ():
            check_rate(
                rate,
                [at for at, name, kinds in sink.kinds_of if (name, kind in kinds) == (run, True)],
            )


def check_rate(rate: Rate, times: list[float]) -> None:
    for first in range(len(times)):
        for last in range(first, len(times)):
            allowed = rate.burst + rate.tokens_per_second * (times[last] - times[first])
            assert last - first + 1 <= allowed + 0.01, "over the limit"


def is_done(world: World, run: str) -> bool:
    """The end is written or given up."""
    marks = world.sink.marks.get(run, Marks())
    return marks.is_applied(source_of(run), world.last[run])


@given(limits, st.lists(steps, max_size=40))
@settings(max_examples=30, deadline=None)
def test_every_event_arrives_once_in_order_and_within_its_limits(
    given_limits: RateLimits, given_steps: list[Step]
) -> None:
    async def main() -> None:
        world = World(given_limits)
        world.start()
        for run in RUNS:
            world.say(run, "run_started", {}, is_lost=False, is_poison=False)
        for step in given_steps:
            await world.go_wrong(step.fault)
            world.step(step)
            await asyncio.sleep(step.wait_seconds)
        for run in RUNS:
            end = {"status": "completed", "last_id": world.last[run] + 1}
            world.say(run, "run_finished", end, is_lost=False, is_poison=False)
        began = world.loop.time()
        while not all(is_done(world, run) for run in RUNS):
            assert world.loop.time() - began < LONG_SECONDS, "never done"
            await asyncio.sleep(5)
        await asyncio.sleep(10)
        check(world)
        await world.stop()

    run_virtual(main())
