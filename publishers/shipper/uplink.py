"""The shipper's connection to the broker: kept open, with heartbeats, and what arrives on it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bus.config import BrokerAddress
from bus.control import StopNotice, decode_control
from bus.errors import BrokerError, EventError
from bus.group.heartbeat import decode_heartbeat
from bus.idranges import IdRanges
from bus.mqtt import Delivery, Link, Will, open_link
from bus.nodes import NodeHeartbeat, encode_node
from bus.retry import Backoff
from bus.stored import decode_stored
from bus.topics import Topics
from publishers.shipper.loghealth import LogHealth, ShardNews

__all__ = ["LOG_GROUP", "Uplink"]

logger = logging.getLogger(__name__)

LOG_GROUP = "log"
HEARTBEAT_SECONDS = 1.0


@dataclass(slots=True)
class Uplink:
    """Keeps the link and sorts what comes in.

    Attributes:
        health: What is known of the log group.
        link: The connection; None while it is lost.
        on_stored: Called with the project, the run, and the stored ids per source.
        on_news: Called with what a log worker says of one shard, and when it was heard.
        on_stop: Called with the project and the run that are asked to stop, and the notice.
        on_change: Called when the link came or went; with True when it came.
        heartbeat: Makes the heartbeat.
    """

    address: BrokerAddress
    topics: Topics
    node: str
    spool: str
    on_stored: Callable[[str, str, Mapping[str, IdRanges]], None]
    on_news: Callable[[ShardNews, float], None]
    on_stop: Callable[[str, str, StopNotice], None]
    on_change: Callable[[bool], None]
    heartbeat: Callable[[], NodeHeartbeat]
    clock: Callable[[], float] = time.monotonic
    health: LogHealth = field(init=False)
    link: Link | None = None
    _has_warned: bool = False

    def __post_init__(self) -> None:
        self.health = LogHealth(self.clock())

    async def run(self) -> None:
        """Keep the link open until cancelled."""
        backoff = Backoff()
        while True:
            try:
                await self._hold(backoff)
            except BrokerError as error:
                logger.info("%s", error)
            finally:
                self.link = None
                self.on_change(False)
            await asyncio.sleep(backoff.next_seconds())

    async def _hold(self, backoff: Backoff) -> None:
        topic = self.topics.node(self.node, self.spool)
        will = Will(topic, encode_node(NodeHeartbeat(self.node, self.spool, has_left=True)))
        # Nodes may have spools of one path: a client id they shared would have them push each
        # other off the broker for ever.
        name = hashlib.sha256(f"{self.node}/{self.spool}".encode()).hexdigest()[:16]
        client_id = f"{self.topics.prefix.replace('/', '-')}-ship-{name}"
        async with open_link(
            self.address, client_id, will=will, on_delivery=self._on_delivery
        ) as link:
            # All runs, though few concern this node: one subscription instead of one per run.
            await link.subscribe([self.topics.stored_filter, self.topics.members_filter(LOG_GROUP)])
            await self._listen_for_stops(link)
            backoff.reset()
            self.link = link
            self.on_change(True)
            while not link.is_lost:
                link.send_once(topic, encode_node(self.heartbeat()))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await link.wait_lost()

    async def _listen_for_stops(self, link: Link) -> None:
        try:
            await link.subscribe([self.topics.control_filter])
        except BrokerError as error:
            # A broker that does not allow it is no reason to ship nothing.
            if not error.is_refusal:
                raise
            if not self._has_warned:
                self._has_warned = True
                logger.warning("runs cannot be asked to stop from outside: %s", error)

    def _on_delivery(self, delivery: Delivery) -> None:
        delivery.ack()
        try:
            if delivery.topic.startswith(f"{self.topics.prefix}/groups/"):
                now = self.clock()
                for news in self.health.heard(decode_heartbeat(delivery.payload), now):
                    self.on_news(news, now)
            elif delivery.topic.startswith(f"{self.topics.prefix}/control/"):
                project, run = self.topics.parse_tail(delivery.topic)
                self.on_stop(project, run, decode_control(delivery.payload))
            else:
                project, run = self.topics.parse_tail(delivery.topic)
                self.on_stored(project, run, decode_stored(delivery.payload))
        except (EventError, ValueError) as error:
            logger.warning("ignored a message on %s: %s", delivery.topic, error)
