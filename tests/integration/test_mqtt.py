"""The link to real brokers: what is acknowledged, what comes again, what happens when it breaks."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from bus import mqtt
from bus.broker import EmbeddedBroker
from bus.config import BrokerAddress
from bus.errors import BrokerError
from bus.mqtt import Delivery, Link, Will, open_link
from tests.fixtures.processes import until

TOPIC = "test/topic"


class Inbox:
    """What arrived, in order."""

    def __init__(self, is_acking: bool = False) -> None:
        self.deliveries: list[Delivery] = []
        self.is_acking = is_acking

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self.is_acking:
            delivery.ack()

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.payload for delivery in self.deliveries]

    @property
    def distinct(self) -> list[bytes]:
        """NATS delivers what is held again."""
        return list(dict.fromkeys(self.payloads))


def session(
    broker: EmbeddedBroker, inbox: Any, client_id: str = "consumer"
) -> AbstractAsyncContextManager[Link]:
    return open_link(broker.address, client_id, is_clean=False, on_delivery=inbox)


def publisher(
    broker: EmbeddedBroker, client_id: str = "publisher", **options: Any
) -> AbstractAsyncContextManager[Link]:
    return open_link(broker.address, client_id, **options)


async def pause(broker: EmbeddedBroker) -> None:
    """Stop the broker's process, and wait until all of its threads stand still."""
    broker.send_signal(signal.SIGSTOP)
    threads = Path(f"/proc/{broker.pid}/task")

    def is_still() -> bool:
        states = [(path / "stat").read_text().rpartition(") ")[2][0] for path in threads.iterdir()]
        return set(states) == {"T"}

    await until(is_still)


def sockets() -> int:
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        try:
            found += "socket:" in str(path.readlink())
        except OSError:
            continue
    return found


async def test_a_message_is_the_brokers_until_it_is_acknowledged(broker: EmbeddedBroker) -> None:
    first, second, third = Inbox(), Inbox(), Inbox()
    async with session(broker, first) as link:
        await link.subscribe([TOPIC])
        async with publisher(broker) as sender:
            for number in range(4):
                await sender.publish(TOPIC, b"%d" % number)
        await until(lambda: len(first.distinct) == 4)
        first.deliveries[0].ack()
        first.deliveries[2].ack()
        # The acknowledgement is on its way once the broker has answered what comes after it.
        await link.publish("test/other", b"")
    async with session(broker, second) as link:
        assert link.is_session_present
        await until(lambda: set(second.payloads) == {b"1", b"3"}, 40)
        for delivery in second.deliveries:
            delivery.ack()
        await link.publish("test/other", b"")
    async with session(broker, third) as link:
        async with publisher(broker) as sender:
            await sender.publish(TOPIC, b"last")
        await until(lambda: third.payloads != [])
        assert third.payloads == [b"last"]


async def test_a_second_link_takes_the_session_over(broker: EmbeddedBroker) -> None:
    first, second = Inbox(), Inbox()
    async with session(broker, first) as old:
        await old.subscribe([TOPIC])
        async with publisher(broker) as sender:
            await sender.publish(TOPIC, b"held")
            await until(lambda: first.distinct == [b"held"])
            async with session(broker, second) as new:
                await asyncio.wait_for(old.wait_lost(), 5)
                assert old.is_lost
                assert new.is_session_present
                await until(lambda: b"held" in second.payloads, 40)
                # Too late: nothing happens, and nothing breaks.
                first.deliveries[0].ack()
                await sender.publish(TOPIC, b"next")
                await until(lambda: b"next" in second.payloads)
                for delivery in second.deliveries:
                    delivery.ack()


async def test_a_session_that_the_broker_does_not_know_is_new(broker: EmbeddedBroker) -> None:
    async with session(broker, Inbox()) as link:
        assert not link.is_session_present


async def test_messages_of_qos_0_are_not_acknowledged(broker: EmbeddedBroker) -> None:
    inbox = Inbox(is_acking=True)
    async with publisher(broker, "reader", on_delivery=inbox) as link:
        await link.subscribe([TOPIC])
        async with publisher(broker) as sender:
            for number in range(20):
                sender.send_once(TOPIC, b"%d" % number)
            await until(lambda: len(inbox.payloads) == 20)
            # Had it been acknowledged, a broker would have closed the link by now.
            await sender.publish(TOPIC, b"still here")
            await until(lambda: inbox.payloads[-1] == b"still here")
            assert not link.is_lost
    assert {delivery.packet_id for delivery in inbox.deliveries[:20]} == {0}


async def test_publishes_are_pipelined_and_each_is_acknowledged(broker: EmbeddedBroker) -> None:
    inbox, acked = Inbox(is_acking=True), []
    async with publisher(broker, "reader", on_delivery=inbox) as link:
        await link.subscribe([TOPIC])
        async with publisher(broker) as sender:
            for number in range(300):
                sender.send(TOPIC, b"%d" % number, lambda n=number: acked.append(n))  # type: ignore[misc]  # a default binds it
            await until(lambda: len(acked) == 300)
            await until(lambda: len(inbox.distinct) == 300)
    assert sorted(acked) == list(range(300))
    assert inbox.distinct == [b"%d" % number for number in range(300)]


WILL = """
import asyncio, sys
from bus.config import BrokerAddress
from bus.mqtt import Will, open_link
async def main():
    will = Will("test/will", b"gone")
    async with open_link(BrokerAddress("127.0.0.1", int(sys.argv[1])), "mortal", will=will):
        print("up", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_the_will_is_published_when_the_process_is_killed(broker: EmbeddedBroker) -> None:
    inbox = Inbox(is_acking=True)
    async with publisher(broker, "reader", on_delivery=inbox) as link:
        await link.subscribe(["test/will"])
        command = [sys.executable, "-c", WILL, str(broker.address.port)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        await process.stdout.readline()
        process.kill()
        await process.wait()
        await until(lambda: inbox.distinct == [b"gone"])


async def test_the_will_is_published_when_the_link_breaks_and_not_when_it_is_closed(
    broker: EmbeddedBroker,
) -> None:
    inbox = Inbox(is_acking=True)
    async with publisher(broker, "reader", on_delivery=inbox) as link:
        await link.subscribe(["test/will"])
        async with publisher(broker, "leaver", will=Will("test/will", b"left")):
            pass
        async with publisher(broker, "faller", will=Will("test/will", b"fell")) as faller:
            sock = faller._paho.socket()
            assert isinstance(sock, socket.socket)
            sock.shutdown(socket.SHUT_RDWR)
            await asyncio.wait_for(faller.wait_lost(), 5)
        await until(lambda: inbox.payloads != [])
        assert inbox.distinct == [b"fell"]


async def test_a_publish_to_a_broker_that_stands_still_ends_after_its_timeout(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "REQUEST_TIMEOUT_SECONDS", 0.3)
    async with publisher(broker, keepalive_seconds=60) as link:
        await pause(broker)
        try:
            with pytest.raises(BrokerError, match="did not acknowledge"):
                await asyncio.wait_for(link.publish(TOPIC, b"x"), 5)
            with pytest.raises(BrokerError, match="cannot subscribe"):
                await asyncio.wait_for(link.subscribe([TOPIC]), 5)
        finally:
            broker.send_signal(signal.SIGCONT)
        await until(lambda: not link.is_lost)


async def test_a_broker_that_stands_still_is_given_up_by_its_silence(
    mosquitto: EmbeddedBroker,
) -> None:
    async with publisher(mosquitto, keepalive_seconds=1) as link:
        await pause(mosquitto)
        try:
            await asyncio.wait_for(link.wait_lost(), 10)
            with pytest.raises(BrokerError, match="lost"):
                link.send(TOPIC, b"x")
        finally:
            mosquitto.send_signal(signal.SIGCONT)


async def test_a_publish_pending_when_the_broker_dies_ends_at_once(broker: EmbeddedBroker) -> None:
    async with publisher(broker) as link:
        await pause(broker)
        publishing = asyncio.create_task(link.publish(TOPIC, b"x"))
        await asyncio.sleep(0)
        broker.kill()
        with pytest.raises(BrokerError):
            await asyncio.wait_for(publishing, 1.0)
        link.send_once(TOPIC, b"y")


async def test_a_refused_connection_is_one_line_that_names_the_way_out(
    broker: EmbeddedBroker,
) -> None:
    broker.kill()
    before = sockets()
    for _ in range(5):
        with pytest.raises(BrokerError) as failure:
            async with publisher(broker):
                pass
        assert "TRAINBUS_BROKER" in str(failure.value)
        assert str(broker.address) in str(failure.value)
        assert "\n" not in str(failure.value)
    assert sockets() <= before


async def test_a_name_that_does_not_resolve_is_the_same_one_line() -> None:
    with pytest.raises(BrokerError, match="TRAINBUS_BROKER"):
        async with open_link(BrokerAddress("no-such-host.invalid", 1883), "x"):
            pass


async def test_a_server_that_does_not_speak_mqtt_is_the_same_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt, "REQUEST_TIMEOUT_SECONDS", 0.5)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(BrokerError, match="TRAINBUS_BROKER"):
        async with open_link(BrokerAddress("127.0.0.1", port), "x"):
            pass
    server.close()


async def test_links_leave_no_socket_open(broker: EmbeddedBroker) -> None:
    before = sockets()
    for _ in range(10):
        async with publisher(broker) as link:
            await link.publish(TOPIC, b"x")
    await until(lambda: sockets() <= before)


async def test_a_link_that_is_cancelled_while_it_is_made_does_not_stand_later(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sockets()
    monkeypatch.setattr(mqtt, "_CLOSE_PATIENCE_SECONDS", 0.05)
    connect, may_connect = aiomqtt.Client._client_connect, threading.Event()

    def connect_slowly(client: aiomqtt.Client) -> None:
        assert may_connect.wait(10)
        connect(client)

    async def hold() -> None:
        async with session(broker, Inbox()):
            await asyncio.sleep(60)

    with monkeypatch.context() as patched:
        patched.setattr(aiomqtt.Client, "_client_connect", connect_slowly)
        task = asyncio.create_task(hold())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
    # A connection that nobody holds would take the session from whoever has it.
    async with session(broker, Inbox()) as link:
        may_connect.set()
        await asyncio.sleep(0.3)
        assert not link.is_lost
    await until(lambda: sockets() <= before)


async def test_a_callback_that_raises_costs_neither_the_link_nor_the_message(
    broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox(is_acking=True)

    def fragile(delivery: Delivery) -> None:
        if delivery.payload == b"bad":
            raise RuntimeError("a bug")
        inbox(delivery)

    def fail() -> None:
        raise RuntimeError("another bug")

    async with session(broker, fragile) as link:
        await link.subscribe([TOPIC])
        async with publisher(broker) as sender:
            sender.send(TOPIC, b"bad", fail)
            await sender.publish(TOPIC, b"good")
            await until(lambda: inbox.distinct == [b"good"])
            await sender.publish(TOPIC, b"better")
            await until(lambda: inbox.distinct == [b"good", b"better"])
        assert not link.is_lost
    assert "a bug" in caplog.text
    assert "another bug" in caplog.text
    later = Inbox(is_acking=True)
    async with session(broker, later) as link:
        await until(lambda: b"bad" in later.payloads, 40)
        await link.publish("test/other", b"")
