"""Which runs are under way, by the log or by what was seen."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from bus.eventlog.aio import AsyncEventLog
from bus.events import decode_envelope
from bus.source import Source
from subscribers.worker import underway
from subscribers.worker.underway import ASKED_SOURCES, RunsInLog, RunsSeen, is_for_sink
from tests.fixtures.roadparts import RUN, SOURCE, event_bytes, source_of
from tests.fixtures.roadsinks import MemoryLog

KEY = ("digits", RUN)
LOST = str(Source.parse(SOURCE).loss())
ENDED = {"status": "completed", "last_id": 9}


class Seen:
    """What a worker without the log has seen."""

    def __init__(self) -> None:
        self.runs = RunsSeen("memory")

    def see(self, number: int, kind: str = "tags", data: Any = None, **changes: Any) -> None:
        raw = event_bytes(number, kind, data, **changes)
        self.runs.see(decode_envelope(raw), raw)

    def open(self) -> list[str]:
        return [run for _, run in asyncio.run(self.runs.find())]


def test_a_run_is_seen_from_any_event_until_all_its_sources_have_ended() -> None:
    seen = Seen()
    seen.see(5)
    seen.see(1, rank=1)
    assert seen.open() == [RUN]
    seen.see(9, "run_finished", ENDED)
    assert seen.open() == [RUN]
    seen.see(9, "run_finished", ENDED, rank=1)
    assert seen.open() == []


def test_what_comes_again_after_the_end_opens_nothing() -> None:
    seen = Seen()
    seen.see(9, "run_finished", ENDED)
    seen.see(1, "run_started", {})
    seen.see(2)
    assert seen.open() == []
    seen.see(1, source=SOURCE.replace("/1-", "/2-"))
    assert seen.open() == [RUN]


def test_a_lost_node_closes_its_source_and_what_it_sends_after_all_opens_it_again() -> None:
    seen = Seen()
    seen.see(1)
    seen.see(1, "run_finished", {**ENDED, "status": "killed", "loss": 1}, source=LOST)
    assert seen.open() == []
    seen.see(2, "run_started", {"loss": 2}, source=LOST)
    assert seen.open() == []
    seen.see(2)
    assert seen.open() == [RUN]


def test_runs_of_shards_that_left_are_forgotten_and_memory_has_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(underway, "REMEMBERED_RUNS", 5)
    monkeypatch.setattr(underway, "REMEMBERED_ENDS", 5)
    seen = Seen()
    for number in range(20):
        seen.see(1, run=f"r{number}")
        seen.see(9, "run_finished", ENDED, run=f"e{number}")
    assert seen.open() == [f"r{number}" for number in range(15, 20)]
    assert len(seen.runs._ended) == len(seen.runs._sources) == 5
    seen.runs.drop(lambda key: key[1] != "r17")
    assert seen.open() == ["r17"]


@pytest.mark.parametrize(
    ("data", "is_for"),
    [
        ({}, True),
        ({"sinks": None}, True),
        ({"sinks": ["memory", "x"]}, True),
        ({"sinks": ["x"]}, False),
        ({"sinks": []}, False),
        ({"sinks": "memory"}, True),
        (["no", "data"], True),
    ],
)
def test_a_run_is_for_a_sink_that_it_names_and_for_all_when_nobody_can_tell(
    data: Any, is_for: bool
) -> None:
    assert is_for_sink("memory", event_bytes(1, "run_started", data)) is is_for


def test_bytes_that_are_no_event_name_no_sinks() -> None:
    assert is_for_sink("memory", b"\xff")


async def test_what_a_run_was_started_with_is_asked_once_and_of_a_few_sources() -> None:
    class Counting(MemoryLog):
        asked = 0

        async def first_events(self, names: Any, kind: str) -> dict[str, bytes]:
            self.asked += len(names)
            return await super().first_events(names, kind)

    log = Counting()
    for rank in range(64):
        log.hold(source_of(rank=rank), 1, kind="tags")
    runs = RunsInLog("memory", cast("AsyncEventLog", log), 0.0, lambda run: True)
    for _ in range(3):
        assert list(await runs.find()) == [KEY]
    assert log.asked == ASKED_SOURCES


async def test_a_run_of_two_ranks_of_which_one_is_for_the_sink_is_for_it() -> None:
    log = MemoryLog()
    for rank, sinks in enumerate([["x"], ["memory"]]):
        raw = event_bytes(1, "run_started", {"rank": rank, "sinks": sinks}, rank=rank)
        log.events[source_of(rank=rank)] = {1: raw}
    runs = RunsInLog("memory", cast("AsyncEventLog", log), 0.0, lambda run: True)
    assert list(await runs.find()) == [KEY]
    runs = RunsInLog("other", cast("AsyncEventLog", log), 0.0, lambda run: True)
    assert await runs.find() == {}


async def test_a_shard_that_leaves_while_the_log_is_asked_takes_its_runs_along() -> None:
    log = MemoryLog()
    log.hold(SOURCE, 1)
    answers = iter([True, False])
    runs = RunsInLog("memory", cast("AsyncEventLog", log), 0.0, lambda run: next(answers))
    assert await runs.find() == {}
