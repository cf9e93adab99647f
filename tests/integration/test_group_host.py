"""Members of a group over a real broker: shards are shared, move, and are given up in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from bus.broker import EmbeddedBroker
from bus.errors import ConfigError
from bus.group.heartbeat import Heartbeat
from bus.group.host import GroupHost
from bus.mqtt import Delivery, open_link
from bus.topics import Topics, shard_of, slot_of
from tests.fixtures.processes import until

TOPICS = Topics()
SHARDS = 4
ALL = set(range(SHARDS))
BEAT_SECONDS = 0.15
RUNS = [f"run-{number}" for number in range(24)]


@dataclass
class Recorder:
    """A consumer that notes what it is told."""

    owned: set[int] = field(default_factory=set)
    got: list[bytes] = field(default_factory=list)
    notices: list[bytes] = field(default_factory=list)
    released: list[frozenset[int]] = field(default_factory=list)
    release_seconds: float = 0.0
    is_releasing: bool = False

    def on_delivery(self, shard: int, delivery: Delivery) -> None:
        assert not self.is_releasing, "a message of a shard that is being given up"
        self.got.append(delivery.payload)
        delivery.ack()

    def on_notice(self, delivery: Delivery) -> None:
        self.notices.append(delivery.payload)

    def on_shard(self, shard: int) -> None:
        self.owned.add(shard)

    async def release(self, shards: frozenset[int]) -> None:
        self.is_releasing = self.release_seconds > 0 and shards == self.owned
        await asyncio.sleep(self.release_seconds)
        self.is_releasing = False
        self.owned -= shards
        self.released.append(shards)

    def idle(self, now: float) -> list[int]:
        return sorted(self.owned)

    def report(self) -> dict[str, Any]:
        return {"got": len(self.got)}


class Member:
    """One member, running."""

    def __init__(self, broker: EmbeddedBroker, name: str, shards: int = SHARDS) -> None:
        self.consumer = Recorder()
        self.host = GroupHost(
            broker.address,
            TOPICS,
            "test",
            name,
            shards,
            self.consumer,
            (TOPICS.stored_filter,),
            BEAT_SECONDS,
        )
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(self.host.run(self.stop))

    @property
    def owned(self) -> set[int]:
        """Shards whose session it holds and has not given up."""
        return set(self.host._heartbeat().owned)

    async def leave(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, 15)

    async def kill(self) -> None:
        """As if the process were gone: nothing is said."""
        self.task.cancel()
        _, left = await asyncio.wait((self.task,), timeout=10)
        assert not left, "a member that was cancelled goes on"
        if not self.task.cancelled():
            self.task.exception()


class Group:
    """Starts members, and ends those that are left."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.broker = broker
        self.members: list[Member] = []

    def start(self, name: str, shards: int = SHARDS) -> Member:
        self.members.append(Member(self.broker, name, shards))
        return self.members[-1]

    async def publish(self, first: int, last: int) -> list[bytes]:
        """One message to each of many runs, numbered."""
        payloads = []
        async with open_link(self.broker.address, "publisher") as link:
            for number in range(first, last):
                for run in RUNS:
                    payload = f"{run}/{number}".encode()
                    await link.publish(TOPICS.event("p", run, "tags"), payload)
                    payloads.append(payload)
        return payloads


@pytest.fixture
async def group(mosquitto: EmbeddedBroker) -> AsyncIterator[Group]:
    """An empty group."""
    made = Group(mosquitto)
    yield made
    for member in made.members:
        await member.kill()


async def test_two_members_share_the_shards_and_one_takes_over_when_the_other_leaves(
    group: Group,
) -> None:
    a = group.start("a")
    await until(lambda: a.owned == ALL)
    b = group.start("b")
    await until(lambda: len(a.owned) == len(b.owned) == SHARDS // 2)
    assert a.owned | b.owned == ALL
    sent = await group.publish(0, 1)
    await until(lambda: len(a.consumer.got) + len(b.consumer.got) >= len(sent))
    assert sorted(a.consumer.got + b.consumer.got) == sorted(sent)
    for member in (a, b):
        for payload in member.consumer.got:
            run = payload.decode().split("/")[0]
            assert shard_of(slot_of(run), SHARDS) in member.owned
    await a.leave()
    assert a.consumer.owned == set()
    await until(lambda: b.owned == ALL, 3)
    sent += await group.publish(1, 2)
    await until(lambda: len(a.consumer.got) + len(b.consumer.got) >= len(sent))
    assert sorted(a.consumer.got + b.consumer.got) == sorted(sent)


async def test_nothing_is_lost_while_shards_move(group: Group) -> None:
    a = group.start("a")
    await until(lambda: a.owned == ALL)
    publishing = asyncio.create_task(group.publish(0, 12))
    b = group.start("b")
    await until(lambda: len(b.owned) == SHARDS // 2)
    await a.leave()
    sent = await publishing
    await until(lambda: set(a.consumer.got + b.consumer.got) >= set(sent))


async def test_a_newcomer_with_another_number_of_shards_is_refused_and_the_group_works_on(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    a = group.start("a")
    await until(lambda: a.owned == ALL)
    stranger = group.start("stranger", 8)
    with pytest.raises(ConfigError, match="--shards 4"):
        await asyncio.wait_for(stranger.task, 5)
    assert stranger.owned == set()
    await asyncio.sleep(4 * BEAT_SECONDS)
    assert not a.task.done()
    assert a.owned == ALL
    assert "stranger" in caplog.text


async def test_a_member_whose_broker_is_gone_owns_nothing_and_comes_back_with_it(
    group: Group,
) -> None:
    a = group.start("a")
    await until(lambda: a.owned == ALL)
    group.broker.kill()
    await until(lambda: a.consumer.owned == set())
    assert a.owned == set()
    assert a.host.link is None
    await asyncio.to_thread(group.broker.start)
    await until(lambda: a.owned == ALL, 15)


async def test_heartbeats_go_on_while_a_shard_takes_long_to_give_up(group: Group) -> None:
    a, b = group.start("a"), group.start("b")
    await until(lambda: len(a.owned) == len(b.owned) == SHARDS // 2)
    kept = a.owned
    a.consumer.release_seconds = 10 * BEAT_SECONDS
    c = group.start("c")
    takeovers = []
    for _ in range(60):
        await asyncio.sleep(BEAT_SECONDS / 4)
        # Nobody takes what "a" keeps: it is alive, and says so.
        takeovers += [shard for shard in b.owned | c.owned if shard in a.owned]
        if len(c.owned) >= 1 and len(a.owned) <= 2 and a.consumer.released:
            break
    assert a.consumer.released or a.owned == kept
    assert takeovers == []
    await until(lambda: a.owned | b.owned | c.owned == ALL)
    a.consumer.release_seconds = 0.0


async def test_a_shard_that_is_given_up_takes_no_more_messages(group: Group) -> None:
    a = group.start("a")
    await until(lambda: a.owned == ALL)
    a.consumer.release_seconds = 0.5
    publishing = asyncio.create_task(group.publish(0, 10))
    await until(lambda: len(a.consumer.got) > 20)
    await a.leave()  # the consumer asserts that nothing comes meanwhile
    b = group.start("b")
    sent = await publishing
    await until(lambda: set(a.consumer.got + b.consumer.got) >= set(sent), 15)


async def test_a_session_that_began_empty_is_named_and_one_that_was_there_is_not(
    group: Group,
) -> None:
    a = group.start("a")
    await until(lambda: a.owned == ALL)
    assert set(a.host._heartbeat().sessions) == {str(shard) for shard in ALL}
    await a.leave()
    b = group.start("b")
    await until(lambda: b.owned == ALL)
    assert b.host._heartbeat().sessions == {}


async def test_hostile_messages_are_ignored(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    a = group.start("a")
    await until(lambda: a.owned == ALL)
    forged = msgspec.json.encode(Heartbeat("somebody-else", SHARDS, sorted(ALL)))
    async with open_link(group.broker.address, "attacker") as link:
        for payload in (b"", b"\xff\xfe", b"{}", b"[" * 50_000, forged):
            await link.publish(TOPICS.member("test", "x"), payload)
        await link.publish("trainbus/v1/groups/test/a b", b"{}")
        await link.publish(TOPICS.stored("p", "r"), b"a notice")
    await until(lambda: a.consumer.notices == [b"a notice"])
    await asyncio.sleep(4 * BEAT_SECONDS)
    assert a.owned == ALL
    assert not a.task.done()
    assert "is not the member of the topic" in caplog.text


async def test_a_member_that_stood_still_does_not_take_the_others_for_gone(group: Group) -> None:
    a, b = group.start("a"), group.start("b")
    await until(lambda: len(a.owned) == len(b.owned) == SHARDS // 2)
    before = a.owned
    now = a.host.clock
    # As after SIGSTOP: much time has passed, and nobody was heard meanwhile.
    a.host.clock = lambda: now() + 100.0
    seen: set[int] = set()
    for _ in range(40):
        await asyncio.sleep(BEAT_SECONDS / 4)
        seen |= a.owned
    assert seen == before


async def test_an_error_of_ours_in_a_session_ends_the_member_loudly(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = group.start("a")

    def fail(shard: int) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(a.consumer, "on_shard", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(a.task, 10)
