"""Asking a run to stop over a real broker, with a shipper played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bus.broker import EmbeddedBroker
from bus.cli import stop as command
from bus.control import StopNotice, decode_control
from bus.errors import BrokerError
from bus.mqtt import Delivery, Link, open_link
from bus.nodes import NodeHeartbeat, encode_node
from bus.stoprequest import StopRequest, ask_to_stop
from bus.topics import Topics
from tests.fixtures.processes import until
from tests.fixtures.roadparts import RUN, SOURCE, source_of

TOPICS = Topics()
NOW = 2e9


class Shipper:
    """Says what it serves when told to, and notes what it hears."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.heard: list[StopNotice] = []

    def beat(self, *live: str, stopping: tuple[str, ...] = ()) -> None:
        beat = NodeHeartbeat("node-0", "spool", live=list(live), stopping=list(stopping))
        self._link.send_once(TOPICS.node("node-0", "spool"), encode_node(beat))


@asynccontextmanager
async def shipper_on(broker: EmbeddedBroker) -> AsyncIterator[Shipper]:
    heard: list[StopNotice] = []

    def hear(delivery: Delivery) -> None:
        delivery.ack()
        heard.append(decode_control(delivery.payload))

    async with open_link(broker.address, "test-shipper", on_delivery=hear) as link:
        await link.subscribe([TOPICS.control_filter])
        shipper = Shipper(link)
        shipper.heard = heard
        yield shipper


def asking(
    broker: EmbeddedBroker, request: StopRequest, wait_seconds: float = 30.0
) -> asyncio.Task[None]:
    message = ("why", "trainbus stop", NOW)
    return asyncio.create_task(
        ask_to_stop(broker.address, TOPICS, ("digits", RUN), request, message, wait_seconds)
    )


async def test_it_is_said_again_with_each_heartbeat_until_that_confirms(
    broker: EmbeddedBroker,
) -> None:
    request = StopRequest(RUN, [SOURCE], [], NOW, is_patient=False)
    async with shipper_on(broker) as shipper:
        task = asking(broker, request)
        # At once, without having heard anybody.
        await until(lambda: len(shipper.heard) == 1)
        shipper.beat(SOURCE)
        await until(lambda: len(shipper.heard) == 2)
        # The shipper was started anew, and finds another process too.
        shipper.beat(SOURCE, source_of(rank=1))
        await until(lambda: len(shipper.heard) == 3)
        shipper.beat(SOURCE, source_of(rank=1), stopping=(SOURCE,))
        await until(lambda: len(shipper.heard) == 4)
        shipper.beat(SOURCE, source_of(rank=1), stopping=(SOURCE, source_of(rank=1)))
        await task
        assert [notice.sources for notice in shipper.heard] == [
            (SOURCE,),
            (SOURCE,),
            (SOURCE, source_of(rank=1)),
            (source_of(rank=1),),
        ]
        assert {(n.reason, n.by, n.time) for n in shipper.heard} == {("why", "trainbus stop", NOW)}
    assert request.confirmed == {SOURCE, source_of(rank=1)}


async def test_it_gives_up_after_its_time(broker: EmbeddedBroker) -> None:
    request = StopRequest(RUN, [SOURCE], [], NOW, is_patient=False)
    await asking(broker, request, 0.2)
    assert request.unconfirmed == [SOURCE]


async def test_a_broker_that_dies_meanwhile_is_one_clear_error(mosquitto: EmbeddedBroker) -> None:
    async with shipper_on(mosquitto) as shipper:
        task = asking(mosquitto, StopRequest(RUN, [SOURCE], [], NOW, is_patient=False))
        await until(lambda: shipper.heard)
        await asyncio.to_thread(mosquitto.kill)
        with pytest.raises(BrokerError, match="was lost: ask again"):
            await task


async def test_thousands_of_ranks_are_asked_in_few_messages(mosquitto: EmbeddedBroker) -> None:
    names = [source_of(rank=rank) for rank in range(6000)]
    async with shipper_on(mosquitto) as shipper:
        task = asking(mosquitto, StopRequest(RUN, names, [], NOW, is_patient=False), 3.0)
        await until(lambda: len(shipper.heard) == 2)
        await task
        assert sorted(name for notice in shipper.heard for name in notice.sources) == sorted(names)


def test_who_ended_of_itself_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    found = command._Found("digits", RUN, is_known=True, is_log_there=True)
    command._report(found, {SOURCE}, {source_of(rank=1)}, [], {SOURCE})
    out, err = capsys.readouterr()
    assert "1 process on 1 node told to stop" in out
    assert "1 process on 1 node ended meanwhile" in out
    assert err == ""


def test_a_long_list_of_those_not_told_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    left = [source_of(rank=rank) for rank in range(25)]
    command._report(command._Found("digits", RUN), set(), set(), left, {left[0]})
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 11
    assert "did not confirm; is it of project 'digits'?" in err[0]
    assert "no shipper serves it" in err[1]
    assert err[-1] == "not told: and 15 more"
