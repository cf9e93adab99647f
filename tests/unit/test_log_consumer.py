"""The log group's consumer: store, confirm, acknowledge, in this order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import orjson
import pytest

from bus.deadletters import encode_letter
from bus.errors import EventError, LogError
from bus.eventlog import DeadLetter
from bus.eventlog.aio import AsyncEventLog
from bus.group.host import GroupHost
from bus.nodes import NodeHeartbeat, encode_node
from bus.stored import decode_stored
from bus.topics import Topics, shard_of, slot_of
from subscribers.log.consumer import IDLE_SECONDS, LOOK_AGAIN_SECONDS, LogConsumer
from tests.fixtures.processes import until
from tests.fixtures.roadparts import RUN, SOURCE, FakeLink, event_bytes, source_of
from tests.fixtures.roadsinks import MemoryLog

TOPICS = Topics()
SHARDS = 4
ALL = frozenset(range(SHARDS))


def shard(run: str = RUN) -> int:
    return shard_of(slot_of(run), SHARDS)


@dataclass
class Host:
    """The member's own link."""

    link: FakeLink | None


class Bench:
    """A log consumer with a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.log = MemoryLog()
        self.link = FakeLink()
        self.own_link = FakeLink()
        self.consumer = LogConsumer(
            cast("AsyncEventLog", self.log), TOPICS, SHARDS, lambda: self.now, lambda: self.now
        )
        self.consumer.host = cast("GroupHost", Host(self.own_link))

    def deliver(self, *numbers: int, run: str = RUN) -> None:
        for number in numbers:
            delivery = self.link.deliver_event(event_bytes(number, run=run))
            self.consumer.on_delivery(shard(run), delivery)

    def beat(self, lowest: int, source: str = SOURCE) -> None:
        payload = encode_node(NodeHeartbeat("n", "s", {source: lowest}))
        self.consumer.on_notice(self.link.deliver(TOPICS.node("n", "s"), payload))

    def confirmed(self, source: str = SOURCE) -> list[str]:
        """What was confirmed of a source, one answer after the other."""
        answers = [decode_stored(payload) for _, payload in self.own_link.sent]
        return [str(answer[source]) for answer in answers if source in answer]

    @property
    def counts(self) -> dict[str, Any]:
        return self.consumer.report()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A consumer that stores, and owns all shards."""
    made = Bench()
    for one in ALL:
        made.consumer.on_shard(one)
    storing = asyncio.create_task(made.consumer.store())
    yield made
    storing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await storing


async def test_events_are_stored_then_confirmed_then_acknowledged(bench: Bench) -> None:
    bench.log.may_append.clear()
    bench.deliver(1, 2)
    await asyncio.sleep(0.01)
    assert (bench.link.acked, bench.own_link.sent) == ([], [])
    bench.log.may_append.set()
    await until(lambda: len(bench.link.acked) == 2)
    assert bench.confirmed()[-1] == "1-2"
    assert bench.own_link.sent[0][0] == TOPICS.stored("digits", RUN)


async def test_what_came_meanwhile_is_one_transaction(bench: Bench) -> None:
    bench.log.may_append.clear()
    bench.deliver(1)
    await asyncio.sleep(0.01)
    bench.deliver(*range(2, 50))
    bench.deliver(1, run="r2")
    bench.log.may_append.set()
    await until(lambda: len(bench.link.acked) == 50)
    assert bench.log.appends == [1, 49]


async def test_a_duplicate_is_confirmed_again(bench: Bench) -> None:
    bench.deliver(1)
    await until(lambda: len(bench.link.acked) == 1)
    bench.deliver(1)
    await until(lambda: len(bench.link.acked) == 2)
    assert bench.confirmed() == ["1", "1"]
    assert (bench.counts["stored"], bench.counts["duplicates"]) == (1, 1)


async def test_a_database_that_is_away_is_waited_for(bench: Bench) -> None:
    bench.log.errors = [LogError("locked", is_retryable=True)]
    bench.deliver(1)
    await until(lambda: len(bench.link.acked) == 1)
    assert bench.log.appends == [1]


async def test_the_event_the_database_refuses_is_kept_apart(bench: Bench) -> None:
    bench.log.may_append.clear()
    bench.deliver(1)
    await asyncio.sleep(0.01)
    bench.deliver(2, 3)
    # The first of the batch of two is what it refuses, in the batch and alone.
    bench.log.appends.clear()
    append = bench.log.append

    async def refuse(records: Any, now: float) -> Any:
        if any(record.id == 2 for record in records):
            raise LogError("no such text")
        return await append(records, now)

    bench.log.append = refuse  # type: ignore[method-assign]  # a database with a mind of its own
    bench.log.may_append.set()
    await until(lambda: len(bench.link.acked) == 3)
    assert [letter.raw for letter in bench.log.letters] == [event_bytes(2)]
    assert bench.confirmed()[-1] == "1,3"


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe", b"{}", event_bytes(1, run="r2")])
async def test_what_is_no_event_becomes_a_dead_letter_and_is_then_acknowledged(
    bench: Bench, payload: bytes
) -> None:
    bench.log.errors = [LogError("locked", is_retryable=True)]
    topic = TOPICS.event("digits", RUN, "tags")
    bench.consumer.on_delivery(shard(), bench.link.deliver(topic, payload))
    await until(lambda: len(bench.link.acked) == 1)
    (letter,) = bench.log.letters
    assert (letter.group, letter.reason, letter.raw) == ("log", "undecodable", payload)
    assert bench.counts["undecodable"] == 1


async def test_a_shard_is_idle_when_nothing_is_in_hand_and_nothing_came(bench: Bench) -> None:
    assert bench.consumer.idle(bench.now) == []
    bench.now += 2 * IDLE_SECONDS
    assert bench.consumer.idle(bench.now) == sorted(ALL)
    bench.log.may_append.clear()
    bench.deliver(1)
    bench.now += 2 * IDLE_SECONDS
    await asyncio.sleep(0.01)
    assert bench.consumer.idle(bench.now) == sorted(ALL - {shard()})
    bench.log.may_append.set()
    await until(lambda: len(bench.link.acked) == 1)
    await asyncio.sleep(0)
    assert bench.consumer.idle(bench.now) == sorted(ALL)


async def test_a_shard_is_released_once_its_own_events_are_stored(bench: Bench) -> None:
    other = next(f"x{n}" for n in range(99) if shard(f"x{n}") != shard())
    bench.log.may_append.clear()
    bench.deliver(1)
    await asyncio.sleep(0.01)
    releasing = asyncio.create_task(bench.consumer.release(frozenset({shard()})))
    await asyncio.sleep(0.01)
    assert not releasing.done()
    # Others go on, and are not waited for.
    bench.deliver(1, run=other)
    append, is_second = bench.log.append, asyncio.Event()

    async def block_the_second(records: Any, now: float) -> Any:
        if records[0].run == other:
            await is_second.wait()
        return await append(records, now)

    bench.log.append = block_the_second  # type: ignore[method-assign]  # one transaction hangs
    bench.log.may_append.set()
    await asyncio.wait_for(releasing, 5.0)
    assert len(bench.link.acked) == 1
    assert shard() not in bench.consumer.idle(bench.now + 10)
    is_second.set()
    await until(lambda: len(bench.link.acked) == 2)


async def test_ids_the_journal_no_longer_holds_are_recorded_as_lost_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.deliver(4)
    await until(lambda: len(bench.link.acked) == 1)
    bench.beat(3)
    await until(lambda: bench.confirmed()[-1] == "1-2,4")
    bench.beat(4)
    await until(lambda: bench.confirmed()[-1] == "1-4")
    bench.beat(4)
    await asyncio.sleep(0.02)
    assert bench.counts["lost"] == 3
    assert bench.log.lost_calls == 2
    assert caplog.text.count("are lost") == 2


async def test_a_shipper_that_missed_the_answer_about_lost_ids_is_told_again(bench: Bench) -> None:
    bench.deliver(2)
    bench.beat(2)
    await until(lambda: bench.confirmed()[-1:] == ["1-2"] or bench.log.lost_calls == 1)
    bench.beat(2)
    await until(lambda: bench.confirmed()[-1:] == ["1-2"])
    before = len(bench.confirmed())
    bench.now += LOOK_AGAIN_SECONDS
    bench.beat(2)
    await until(lambda: len(bench.confirmed()) == before + 1)
    assert bench.counts["lost"] == 1


async def test_a_loss_that_could_not_be_recorded_is_tried_with_the_next_heartbeat(
    bench: Bench,
) -> None:
    bench.beat(2)  # of a source the log has never heard of
    await until(lambda: bench.log.lost_calls == 1)
    bench.deliver(2)
    await until(lambda: len(bench.link.acked) == 1)
    bench.log.errors = [LogError("locked", is_retryable=True)]
    bench.beat(2)
    await until(lambda: not bench.log.errors)
    await asyncio.sleep(0)
    bench.beat(2)
    await until(lambda: bench.confirmed()[-1] == "1-2")


async def test_losses_of_shards_of_others_are_theirs_until_they_are_ours(bench: Bench) -> None:
    bench.deliver(2)
    await until(lambda: len(bench.link.acked) == 1)
    await bench.consumer.release(frozenset({shard()}))
    bench.beat(2)
    await asyncio.sleep(0.01)
    assert bench.log.lost_calls == 0
    bench.consumer.on_shard(shard())
    bench.beat(2)
    await until(lambda: bench.confirmed()[-1] == "1-2")


async def test_a_database_that_hangs_does_not_pile_up_questions(bench: Bench) -> None:
    answer = asyncio.Event()

    async def hang(*_: Any) -> None:
        bench.log.lost_calls += 1
        await answer.wait()

    bench.log.record_lost = hang  # type: ignore[assignment]  # hangs
    for lowest in range(2, 50):
        bench.beat(lowest)
        await asyncio.sleep(0)
    assert bench.log.lost_calls == 1
    answer.set()


async def test_what_is_remembered_of_sources_is_bounded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subscribers.log.consumer.REMEMBERED_SOURCES", 5)
    for number in range(20):
        source = source_of(f"run{number}")
        bench.log.hold(source, 3)
        bench.beat(3, source)
        await until(lambda: bench.log.lost_calls == number + 1)  # noqa: B023  # awaited at once
        await asyncio.sleep(0)
    assert len(bench.consumer._losses._looked) == 5
    assert len(bench.consumer._losses._lost) == 5
    assert bench.counts["lost"] == 40


async def test_a_dead_letter_of_a_group_is_kept_also_when_the_database_is_away(
    bench: Bench,
) -> None:
    letter = DeadLetter("mlflow", SOURCE, 5, RUN, "digits", "permanent", "no", 3, 12.5, b"raw")
    bench.log.errors = [LogError("locked", is_retryable=True)]
    topic = TOPICS.dead("mlflow", "digits", RUN)
    bench.consumer.on_notice(bench.link.deliver(topic, encode_letter(letter)))
    await until(lambda: bench.log.letters == [letter])


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (TOPICS.node("n", "s"), b"\xff"),
        (TOPICS.node("n", "s"), b'{"node":"n","spool":"s","sources":{"nonsense":5}}'),
        (TOPICS.dead("g", "p", "r"), b"{}"),
    ],
)
async def test_a_malformed_notice_is_refused_with_one_error(
    bench: Bench, topic: str, payload: bytes
) -> None:
    with pytest.raises(EventError):
        bench.consumer.on_notice(bench.link.deliver(topic, payload))


async def test_without_a_link_nothing_is_confirmed_and_all_is_acknowledged(bench: Bench) -> None:
    bench.consumer.host = cast("GroupHost", Host(None))
    bench.deliver(1)
    await until(lambda: len(bench.link.acked) == 1)
    assert bench.confirmed() == []


async def test_the_report_is_what_a_heartbeat_can_carry(bench: Bench) -> None:
    report = bench.consumer.report()
    assert orjson.loads(orjson.dumps(report)) == report
