"""Members that do not hear each other, over real brokers: shards do not go to and fro for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from bus.broker import EmbeddedBroker
from bus.group.contest import ContestPolicy
from bus.group.heartbeat import Heartbeat
from bus.group.host import GroupHost
from bus.mqtt import Delivery, open_link
from bus.topics import Topics
from tests.fixtures.processes import until

TOPICS = Topics()
SHARDS = 4
ALL = set(range(SHARDS))
BEAT_SECONDS = 0.15
# Faster than in life, but for the minute. A first loss costs up to 4 s on NATS.
POLICIES = {
    "mosquitto": ContestPolicy(stand_seconds=1.5, away_seconds=(3.0, 60.0)),
    "nats": ContestPolicy(stand_seconds=5.0, away_seconds=(7.0, 60.0)),
}
QUIET_SECONDS = 3.0
FIRST_MINUTE_SWAPS = 6
RUNS = [f"run-{number}" for number in range(12)]


@dataclass
class Ledger:
    """What both members do, in order.

    Attributes:
        opened: How often the session of each shard was opened by anyone.
    """

    opened: Counter[int] = field(default_factory=Counter)
    got: list[bytes] = field(default_factory=list)


@dataclass
class Noting:
    """A consumer that notes what it is told in the common ledger."""

    ledger: Ledger
    owned: set[int] = field(default_factory=set)

    def on_delivery(self, shard: int, delivery: Delivery) -> None:
        self.ledger.got.append(delivery.payload)
        delivery.ack()

    def on_notice(self, delivery: Delivery) -> None: ...

    def on_shard(self, shard: int) -> None:
        self.owned.add(shard)
        self.ledger.opened[shard] += 1

    async def release(self, shards: frozenset[int]) -> None:
        self.owned -= shards

    def idle(self, now: float) -> list[int]:
        return []

    def report(self) -> dict[str, Any]:
        return {}


class HardOfHearing(GroupHost):
    """A member that does not hear the heartbeats of others as long as it is deaf."""

    is_deaf = False

    def _on_heartbeat(self, beat: Heartbeat) -> None:
        if not self.is_deaf:
            super()._on_heartbeat(beat)


class Pair:
    """Two members of one group."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.broker = broker
        self.ledger = Ledger()
        self.stop = asyncio.Event()
        self.hosts: dict[str, HardOfHearing] = {}
        self.consumers: dict[str, Noting] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, *, is_deaf: bool) -> None:
        consumer = Noting(self.ledger)
        host = HardOfHearing(
            self.broker.address,
            TOPICS,
            "test",
            name,
            SHARDS,
            consumer,
            interval_seconds=BEAT_SECONDS,
            contest_policy=POLICIES[self.broker.engine],
        )
        host.is_deaf = is_deaf
        self.hosts[name], self.consumers[name] = host, consumer
        self.tasks.append(asyncio.create_task(host.run(self.stop)))

    def held(self, name: str) -> set[int]:
        return set(self.hosts[name]._heartbeat().owned)

    def is_settled(self) -> bool:
        """Every shard has one owner, that alone takes it for its own."""
        a, b = self.held("a"), self.held("b")
        return (
            a | b == ALL
            and not a & b
            and [self.consumers["a"].owned, self.consumers["b"].owned] == [a, b]
        )

    def is_shared(self) -> bool:
        """The assignment is the normal one."""
        return self.is_settled() and len(self.held("a")) == SHARDS // 2

    def swaps(self) -> int:
        """The most that any shard changed hands."""
        return max(self.ledger.opened.values()) - 1

    async def publish(self, first: int, last: int) -> list[bytes]:
        """One message to each run, again and again."""
        sent = []
        async with open_link(self.broker.address, "publisher") as link:
            for number in range(first, last):
                for run in RUNS:
                    payload = f"{run}/{number}".encode()
                    await link.publish(TOPICS.event("p", run, "tags"), payload)
                    sent.append(payload)
                await asyncio.sleep(BEAT_SECONDS)
        return sent


@pytest.fixture
async def pair(broker: EmbeddedBroker) -> AsyncIterator[Pair]:
    """Two members, not started yet."""
    made = Pair(broker)
    yield made
    made.stop.set()
    done, left = await asyncio.wait(made.tasks, timeout=15)
    assert not left
    for task in done:
        task.result()


@pytest.mark.timeout(90)
@pytest.mark.parametrize("deaf", ["a", "b", "ab"])
async def test_a_shard_changes_hands_a_few_times_and_all_is_normal_once_they_hear_again(
    pair: Pair, deaf: str
) -> None:
    pair.start("a", is_deaf="a" in deaf)
    await until(lambda: pair.held("a") == ALL)
    pair.start("b", is_deaf="b" in deaf)
    publishing = asyncio.create_task(pair.publish(0, 30))
    await until(lambda: pair.swaps() > 0)
    if deaf == "ab":
        # To and fro, to, and who lost it twice tries once more before it waits for a minute.
        await until(lambda: min(pair.ledger.opened.values()) >= 6, 60)
    else:
        await asyncio.sleep(QUIET_SECONDS)
    await until(pair.is_settled)
    swaps = pair.swaps()
    assert swaps <= FIRST_MINUTE_SWAPS
    await asyncio.sleep(QUIET_SECONDS)
    assert pair.is_settled()
    assert pair.swaps() == swaps
    sent = await publishing
    await until(lambda: set(pair.ledger.got) >= set(sent), 20)

    for host in pair.hosts.values():
        host.is_deaf = False
    # Not after the wait of a minute: who can be heard need not be waited for.
    await until(pair.is_shared, 10)
    healed = pair.swaps()
    await asyncio.sleep(10 * BEAT_SECONDS)
    assert pair.is_shared()
    assert pair.swaps() == healed <= swaps + 2


async def test_who_is_left_takes_a_contested_shard_as_soon_as_the_other_is_gone(pair: Pair) -> None:
    pair.start("a", is_deaf=True)
    await until(lambda: pair.held("a") == ALL)
    pair.start("b", is_deaf=False)
    await until(lambda: pair.swaps() > 0)
    await until(lambda: pair.held("a") == ALL and pair.consumers["b"].owned == set())
    pair.tasks[0].cancel()  # it says nothing, but for what the broker says in its place
    await asyncio.wait((pair.tasks.pop(0),))
    await until(lambda: pair.held("b") == ALL, 10)
