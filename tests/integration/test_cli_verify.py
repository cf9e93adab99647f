"""``trainbus verify``: the receipt, from a real event log and a sink that holds what we say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from bus.eventlog import DeadLetter, EventLog
from bus.events import Event
from bus.idranges import IdRanges
from bus.kinds import Metrics, RunStarted
from bus.sinks import BatchLimits, Marks, RunRef, SinkContents
from tests.fixtures.commands import Command, record
from tests.fixtures.logrecords import source_of


class FakeSink:
    """A sink that holds what the test says."""

    name = "fake"
    limits = BatchLimits()
    kinds = frozenset({"run_started", "metrics", "summary", "run_finished"})
    held: SinkContents | None = None

    async def contents(self, run: RunRef) -> SinkContents | None:
        return self.held

    def expected_points(self, event: Event) -> set[tuple[Any, ...]]:
        if not isinstance(event.data, Metrics):
            return set()
        return {
            (key, row[1]) for table in event.data.tables for row in table.rows for key in table.keys
        }

    async def close(self) -> None:
        pass


class FakeEntry:
    name = "fake"

    def load(self) -> Callable[..., Any]:
        return lambda settings, environ: FakeSink()


@pytest.fixture
def fake_sink(filled_log: EventLog, monkeypatch: pytest.MonkeyPatch) -> type[FakeSink]:
    """The one sink that is installed, and the one group of the log."""
    monkeypatch.setattr(
        "bus.sinks.entry_points", lambda name="fake", **_: [FakeEntry()] if name == "fake" else []
    )
    with EventLog.open(filled_log.place) as again:
        again.register_group("fake", 8, now=1.0)
    return FakeSink


def contents(applied: str, points: int, dead: str = "") -> SinkContents:
    names = (source_of("whole", 0), source_of("whole", 1))
    marks = Marks({name: IdRanges.parse(applied) for name in names})
    if dead:
        marks.dead = {names[0]: IdRanges.parse(dead)}
    return SinkContents(marks, points, "http://tracker/whole")


def test_verify_of_a_delivered_run_is_complete(
    trainbus: Command, fake_sink: type[FakeSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both ranks log lr at the same steps: 15 points of it, and 15 of each rank's loss.
    monkeypatch.setattr(fake_sink, "held", contents("1-9", 45))
    status, out, _ = trainbus("verify", "whole", "--json")
    receipt = orjson.loads(out)
    assert status == 0
    assert list(receipt)[:4] == ["run", "published", "stored", "sinks"]
    assert (receipt["published"], receipt["stored"], receipt["points"]) == (18, 18, 62)
    sink = receipt["sinks"]["fake"]
    assert (sink["delivered"], sink["dead"], sink["missing"]) == (16, 0, 0)
    assert (sink["not_applicable"], sink["points"]) == (2, {"expected": 45, "found": 45})
    status, out, _ = trainbus("verify", "whole")
    assert status == 0
    assert "45 of 45" in out
    assert "complete: every published event is accounted for" in out


def test_verify_names_each_gap_and_ends_with_status_1(
    trainbus: Command,
    fake_sink: type[FakeSink],
    filled_log: EventLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fake_sink, "held", contents("1-3,5,7-9", 30, dead="8"))
    with EventLog.open(filled_log.place) as again:
        again.add_dead_letter(
            DeadLetter(
                *("fake", source_of("whole", 0), 8, "whole", "digits", "permanent"),
                *("no such\nsummary", 1, 1.0, b""),
            )
        )
    status, out, _ = trainbus("verify", "whole")
    assert status == 1
    assert f"fake: missing: 4, 6 of {source_of('whole', 1)}" in out
    assert "fake: 15 points are missing" in out
    assert f"fake: dead: 8 of {source_of('whole', 0)}: no such summary" in out
    assert out.splitlines()[-1] == "NOT complete"


def test_verify_shows_what_the_log_itself_lacks(trainbus: Command) -> None:
    status, out, err = trainbus("verify", "holes")
    assert (status, err) == (1, "")
    assert f"log: missing: 4-5, 7 of {source_of('holes', 0)}" in out
    assert f"log: lost for good: 7 of {source_of('holes', 1)}" in out
    assert "no sink was asked" in out


def test_verify_of_a_run_that_the_sink_does_not_have(
    trainbus: Command, fake_sink: type[FakeSink]
) -> None:
    status, out, _ = trainbus("verify", "whole")
    assert status == 1
    assert "fake: has no such run" in out


def test_a_run_that_goes_to_other_sinks_is_not_missing_in_this_one(
    trainbus: Command, fake_sink: type[FakeSink], filled_log: EventLog
) -> None:
    started = RunStarted(sinks=["clearml"])
    with EventLog.open(filled_log.place) as again:
        again.append([record("elsewhere", 0, 1, "run_started", started, 0.0, "digits")], now=1.0)
    status, out, _ = trainbus("verify", "elsewhere", "--json")
    assert (status, orjson.loads(out)["sinks"]["fake"]["not_applicable"]) == (0, 1)
    assert "complete so far: the run has not ended" in trainbus("verify", "elsewhere")[1]


def test_verify_says_which_sink_cannot_be_asked(
    trainbus: Command, fake_sink: type[FakeSink], filled_log: EventLog
) -> None:
    with EventLog.open(filled_log.place) as again:
        again.register_group("gone", 8, now=1.0)
    status, out, _ = trainbus("verify", "whole")
    assert status == 1
    assert "gone: cannot be asked: no sink 'gone'" in out
