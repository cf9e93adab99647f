"""What the hub sink keeps of runs in the event log, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.errors import MarksMovedError, PermanentSinkError, RetryableSinkError
from bus.eventlog import EventLog
from bus.sinks import Marks, RunRef
from subscribers.hub.state import StateStore

RUN = RunRef("digits", "r1", "mlp")


@pytest.fixture
async def store(log_url: str) -> AsyncIterator[StateStore]:
    store = StateStore(log_url, "hub", "hub")
    yield store
    await store.close()


def some_marks() -> Marks:
    marks = Marks()
    marks.add_applied("a", 1)
    marks.add_dead("a", 3)
    marks.add_superseded("b", 7)
    return marks


async def test_marks_and_fields_come_back_as_they_were(store: StateStore, log_url: str) -> None:
    record = await store.read(RUN)
    assert (record.marks, record.fields, record.raw) == (Marks(), {}, None)
    fields = {"model": "x" * 20, "epochs": {"0": {"loss": 0.1, "none": None}}, "odd": "日本\x00"}
    await store.save(RUN, record, some_marks(), **fields)
    other = StateStore(log_url, "hub", "hub")
    found = await other.read(RUN)
    assert (found.marks, found.fields, found.raw) == (some_marks(), fields, record.raw)
    assert (await other.read(RunRef("digits", "r2", "mlp"))).raw is None
    await other.close()


async def test_fields_are_changed_one_by_one_and_marks_are_kept(store: StateStore) -> None:
    record = await store.read(RUN)
    await store.save(RUN, record, some_marks(), a=1, b=2)
    await store.save(RUN, record, None, b=None, c=3)
    found = await store.read(RUN)
    assert (found.marks, found.fields) == (some_marks(), {"a": 1, "c": 3})


async def test_who_was_overtaken_changes_nothing(store: StateStore) -> None:
    mine, theirs = await store.read(RUN), await store.read(RUN)
    await store.save(RUN, theirs, some_marks(), model="theirs")
    for _ in range(2):
        with pytest.raises(MarksMovedError, match="another worker has written"):
            await store.save(RUN, mine, Marks(), model="mine")
        with pytest.raises(MarksMovedError):
            await store.check(RUN, mine)
    await store.check(RUN, theirs)
    assert (await store.read(RUN)).fields == {"model": "theirs"}
    assert mine.fields == {}


async def test_of_many_writers_at_once_each_change_of_one_sink_counts(store: StateStore) -> None:
    record = await store.read(RUN)
    await asyncio.gather(*(store.save(RUN, record, None, **{f"f{n}": n}) for n in range(20)))
    assert (await store.read(RUN)).fields == {f"f{n}": n for n in range(20)}


async def test_what_another_service_kept_is_not_ours_but_the_marks_are(
    store: StateStore, log_url: str
) -> None:
    await store.save(RUN, await store.read(RUN), some_marks(), model="hub's")
    platform = StateStore(log_url, "hub", "platform")
    found = await platform.read(RUN)
    assert (found.marks, found.fields) == (some_marks(), {})
    await platform.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"[]",
        b"7",
        b"{}",
        b'{"version": 1}',
        b'{"version": 1, "service": "hub", "marks": {"a": ["1"]}, "fields": {}}',
        b'{"version": 1, "service": "hub", "marks": {"a": ["x", "", ""]}, "fields": {}}',
        b'{"version": 1, "service": "hub", "marks": {}, "fields": 7}',
    ],
)
async def test_damage_is_refused_with_the_way_out(
    store: StateStore, log: EventLog, raw: bytes
) -> None:
    await asyncio.to_thread(log.put_sink_state, "hub", "digits", "r1", raw)
    with pytest.raises(PermanentSinkError, match="delete that row"):
        await store.read(RUN)


async def test_what_a_newer_version_wrote_waits_for_an_upgrade(
    store: StateStore, log: EventLog
) -> None:
    raw = json.dumps({"version": 2, "anything": []}).encode()
    await asyncio.to_thread(log.put_sink_state, "hub", "digits", "r1", raw)
    with pytest.raises(RetryableSinkError, match="upgrade this worker"):
        await store.read(RUN)


async def test_a_log_that_is_away_is_asked_again_later(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_text("no database, but long enough to be seen as something else")
    store = StateStore(f"sqlite:///{tmp_path / 'log.db'}", "hub", "hub")
    with pytest.raises(RetryableSinkError, match="cannot be had"):
        await store.read(RUN)
    await store.close()
