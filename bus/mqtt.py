"""The one place that speaks MQTT, over aiomqtt.

aiomqtt acknowledges a message on receipt. The bus must acknowledge only after the sink has it, and
must publish without waiting for each PUBACK. Both go through the paho client that aiomqtt wraps
(aiomqtt 2.x has no public way), and only here. A :class:`Link` is one connection: it is used once,
because a client object that reconnects re-sends a queue of its own besides ours.

MQTT 3.1.1 semantics only: every broker has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import aiomqtt
from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from bus.config import BrokerAddress
from bus.errors import BrokerError
from bus.waiting import wait_for_event

__all__ = ["Delivery", "Link", "Will", "open_link"]

logger = logging.getLogger(__name__)

# Lost links are reported by those who hold them, once; paho would add an error for each.
_silent = logging.getLogger("bus.mqtt.paho")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False

CONNECT_TIMEOUT_SECONDS = 5.0
# A publish pending when the link is lost waits out its timeout; aiomqtt's default is 10 s.
REQUEST_TIMEOUT_SECONDS = 3.0
# How soon a peer that hangs without closing is given up, at half to one and a half times this.
KEEPALIVE_SECONDS = 10
_CLOSE_PATIENCE_SECONDS = 0.5

_closing: set[asyncio.Task[None]] = set()
"""Connections that were given up while a thread made them; held until they are closed."""


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us when the link breaks."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as received. QoS 1 messages stay with the broker until :meth:`ack`.

    Two deliveries of one message on one link are equal, and one ack settles both: NATS delivers
    a held message again with the same packet id.
    """

    topic: str
    payload: bytes
    packet_id: int
    link: Link

    def ack(self) -> None:
        """Tell the broker that the message is dealt with. Nothing happens if the link is gone."""
        self.link.ack(self)


class Link:
    """One connection to the broker. Made by :func:`open_link`."""

    def __init__(self, client: aiomqtt.Client, on_delivery: Callable[[Delivery], None]) -> None:
        self._client = client
        self._on_delivery = on_delivery
        self._paho = client._client
        self._pending: dict[int, Callable[[], None]] = {}
        self._is_lost = asyncio.Event()
        self.is_session_present = False
        """The broker knew the session and kept its queue."""
        self._hook()

    def _hook(self) -> None:
        """Put our own callbacks between paho and aiomqtt."""
        inner_connect = self._paho.on_connect

        def on_connect(
            client: Any, userdata: Any, flags: Any, reason: Any, properties: Any = None
        ) -> None:
            self.is_session_present = bool(flags.session_present)
            inner_connect(client, userdata, flags, reason, properties)  # type: ignore[misc,call-arg]  # the union of two callback versions

        self._paho.on_connect = on_connect
        self._paho.on_message = self._on_message
        self._paho.on_publish = self._on_publish
        self._paho.manual_ack_set(True)
        # The callers bound what is under way; paho's own queue behind 20 would hide it from them.
        self._paho.max_inflight_messages_set(0)
        self._client._disconnected.add_done_callback(self._on_disconnected)

    def _on_disconnected(self, future: asyncio.Future[None]) -> None:
        if not future.cancelled():
            future.exception()  # else asyncio reports it as never retrieved
        self._is_lost.set()

    def _on_message(self, client: Any, userdata: Any, message: MQTTMessage) -> None:
        try:
            delivery = Delivery(message.topic, bytes(message.payload), message.mid, self)
            self._on_delivery(delivery)
        except Exception:  # it would cost the link, and the message comes again on the next
            logger.exception("a message was not taken and stays with the broker")

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason: Any = None, properties: Any = None
    ) -> None:
        on_ack = self._pending.pop(mid, None)
        if on_ack is None or self.is_lost:
            return
        try:
            on_ack()
        except Exception:  # it would cost the link
            logger.exception("an acknowledgement of the broker was not taken")

    @property
    def is_lost(self) -> bool:
        """The connection is gone; deliveries of it can no longer be acknowledged."""
        return self._is_lost.is_set()

    async def wait_lost(self) -> None:
        """Return when the connection is gone."""
        await self._is_lost.wait()

    def ack(self, delivery: Delivery) -> None:
        """Send PUBACK for a delivery of this link."""
        # QoS 0 has no packet id: an acknowledgement of it is a protocol error.
        if delivery.packet_id and not self.is_lost:
            self._paho.ack(delivery.packet_id, 1)

    def send(self, topic: str, payload: bytes, on_ack: Callable[[], None] | None = None) -> None:
        """Publish with QoS 1 and do not wait.

        Args:
            topic: Where to.
            payload: What.
            on_ack: Called on the event loop when the broker has acknowledged; never when the
                link is lost before.

        Raises:
            BrokerError: The link is lost.
        """
        if self.is_lost:
            raise BrokerError("the connection to the broker is lost")
        info = self._paho.publish(topic, payload, qos=1)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise BrokerError(f"the broker connection refused a message: {info.rc.name}")
        if on_ack is not None:
            self._pending[info.mid] = on_ack

    def send_once(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 0: heartbeats and such, which the next one replaces."""
        if not self.is_lost:
            self._paho.publish(topic, payload, qos=0)

    async def publish(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 1 and wait for the broker's acknowledgement.

        Raises:
            BrokerError: The link was lost, or nothing came for 3 s.
        """
        is_acked = asyncio.Event()
        self.send(topic, payload, is_acked.set)
        lost = asyncio.ensure_future(self._is_lost.wait())
        acked = asyncio.ensure_future(is_acked.wait())
        try:
            await asyncio.wait(
                (lost, acked),
                timeout=REQUEST_TIMEOUT_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            lost.cancel()
            acked.cancel()
        if not is_acked.is_set():
            raise BrokerError(f"the broker did not acknowledge a message to {topic}")

    async def subscribe(self, filters: Iterable[str], qos: int = 1) -> None:
        """Subscribe to all filters in one request.

        Raises:
            BrokerError: The link was lost, or the broker refused a filter.
        """
        wanted = [(name, qos) for name in filters]
        try:
            granted: Any = await self._client.subscribe(wanted)
        except aiomqtt.MqttError as error:
            raise BrokerError(f"cannot subscribe: {error}") from error
        for (name, _), code in zip(wanted, granted, strict=False):
            # MQTT 3.1.1 SUBACK: 0x80 is failure; paho gives a number or a ReasonCode.
            if (code.value if isinstance(code, ReasonCode) else code) >= 0x80:
                text = f"the broker refused the subscription to {name}"
                raise BrokerError(text, is_refusal=True)


@asynccontextmanager
async def open_link(
    address: BrokerAddress,
    client_id: str,
    *,
    is_clean: bool = True,
    will: Will | None = None,
    on_delivery: Callable[[Delivery], None] | None = None,
    keepalive_seconds: int = KEEPALIVE_SECONDS,
) -> AsyncIterator[Link]:
    """Connect to the broker, and disconnect at the end.

    Args:
        address: Where and how.
        client_id: The broker lets one connection own it and closes the previous one.
        is_clean: False keeps the session, its subscriptions and its queue in the broker.
        will: Published by the broker when the link breaks.
        on_delivery: Called on the event loop for each message. It must not block. A message for
            which it raises is not acknowledged.
        keepalive_seconds: A peer silent for longer is taken for lost.

    Raises:
        BrokerError: The broker cannot be reached or refuses us.
    """
    client = aiomqtt.Client(
        address.host,
        address.port,
        username=address.username,
        password=address.password,
        identifier=client_id,
        clean_session=is_clean,
        will=aiomqtt.Will(will.topic, will.payload, qos=1) if will else None,
        keepalive=keepalive_seconds,
        timeout=REQUEST_TIMEOUT_SECONDS,
        logger=_silent,
        tls_context=ssl.create_default_context() if address.is_tls else None,
        socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
    )
    client._client.connect_timeout = CONNECT_TIMEOUT_SECONDS
    link = Link(client, on_delivery or _ignore)
    await _connect(client, address)
    try:
        yield link
    finally:
        link._is_lost.set()
        try:
            with contextlib.suppress(aiomqtt.MqttError, OSError):
                await client.__aexit__(None, None, None)
        finally:
            client._client._sock_close()


async def _connect(client: aiomqtt.Client, address: BrokerAddress) -> None:
    has_connected = _watch_connecting(client)
    try:
        await client.__aenter__()
    except (aiomqtt.MqttError, OSError, ValueError) as error:
        client._client._sock_close()
        _refuse(address, error)
    except asyncio.CancelledError:
        # The thread that connects cannot be stopped: without this the connection would stand
        # later, own the session and belong to nobody.
        _disown(client)
        closing = asyncio.create_task(_close_later(client, has_connected))
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)
        await asyncio.wait((closing,), timeout=_CLOSE_PATIENCE_SECONDS)
        raise


def _watch_connecting(client: aiomqtt.Client) -> asyncio.Event:
    """An event that is set once the thread that connects is done, well or not."""
    has_connected = asyncio.Event()
    loop = asyncio.get_running_loop()
    connect = client._client_connect

    def connect_and_tell() -> None:
        try:
            connect()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(has_connected.set)

    client._client_connect = connect_and_tell  # type: ignore[method-assign]  # no other way to know
    return has_connected


def _disown(client: aiomqtt.Client) -> None:
    """Let a connection that is still being made be nobody's.

    It may stand for a moment before it can be closed. Under our client id that moment would take
    the session from whoever has it by then, and its end would publish our last will.
    """
    client._client._client_id = f"trainbus-nobody-{secrets.token_hex(8)}".encode()
    client._client._clean_session = True
    client._client.will_clear()


async def _close_later(client: aiomqtt.Client, has_connected: asyncio.Event) -> None:
    # Bounded: a thread that never began tells nothing.
    await wait_for_event(has_connected, 4 * CONNECT_TIMEOUT_SECONDS)
    client._client._sock_close()


def _refuse(address: BrokerAddress, error: Exception) -> NoReturn:
    reason = str(error) or type(error).__name__
    raise BrokerError(
        f"cannot connect to the broker at {address}: {reason}; check TRAINBUS_BROKER"
    ) from error


def _ignore(delivery: Delivery) -> None:
    delivery.ack()
