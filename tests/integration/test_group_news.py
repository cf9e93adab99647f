"""What a member has to say is heard by the others at once, over a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bus.broker import EmbeddedBroker
from bus.errors import BrokerError
from bus.group.heartbeat import Heartbeat
from bus.group.host import GroupHost
from bus.topics import Topics
from tests.fixtures.processes import until
from tests.integration.test_group_host import Recorder

TOPICS = Topics()
BEAT_SECONDS = 5.0


class Pair:
    """Two members that would hear each other every five seconds."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.heard: list[Heartbeat] = []
        self.stop = asyncio.Event()
        self.a, self.b = (
            GroupHost(
                *(broker.address, TOPICS, "test", name, 2, Recorder()),
                notices=(TOPICS.stored_filter,),
                interval_seconds=BEAT_SECONDS,
            )
            for name in "ab"
        )
        self.b.on_heartbeat = self.heard.append
        self.tasks = [asyncio.create_task(host.run(self.stop)) for host in (self.b, self.a)]


@pytest.fixture
async def pair(mosquitto: EmbeddedBroker) -> AsyncIterator[Pair]:
    """Two members that have heard of each other."""
    made = Pair(mosquitto)
    await until(lambda: made.heard and made.a.link and made.b.link)
    yield made
    made.stop.set()
    await asyncio.wait_for(asyncio.gather(*made.tasks), 15)


async def test_what_is_news_is_sent_before_the_next_heartbeat_is_due(pair: Pair) -> None:
    await asyncio.sleep(0.3)
    before = len(pair.heard)
    pair.a.tell_now()
    await until(lambda: len(pair.heard) > before, BEAT_SECONDS / 2)
    assert pair.heard[-1].member == "a"


async def test_a_member_publishes_on_its_own_link_and_says_when_it_has_none(pair: Pair) -> None:
    consumer = pair.b.consumer
    assert isinstance(consumer, Recorder)
    await pair.a.publish(TOPICS.stored("p", "r"), b"a notice")
    await until(lambda: consumer.notices == [b"a notice"])
    pair.stop.set()
    await asyncio.wait_for(asyncio.gather(*pair.tasks), 15)
    with pytest.raises(BrokerError, match="lost"):
        await pair.a.publish(TOPICS.stored("p", "r"), b"too late")
