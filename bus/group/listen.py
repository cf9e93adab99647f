"""Listening to the heartbeats on the bus, for those who only look."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from bus.config import BrokerAddress
from bus.errors import BrokerError, EventError
from bus.group.heartbeat import Heartbeat, decode_heartbeat
from bus.mqtt import Delivery, open_link
from bus.nodes import NodeHeartbeat, decode_node
from bus.topics import Topics

__all__ = ["Heard", "listen"]


@dataclass(slots=True)
class Heard:
    """Who was heard of last, and has not left.

    Attributes:
        members: The last heartbeat of each, by group and member.
        nodes: The last heartbeat of each shipper, by node and spool.
    """

    topics: Topics
    members: dict[tuple[str, str], Heartbeat] = field(default_factory=dict)
    nodes: dict[tuple[str, str], NodeHeartbeat] = field(default_factory=dict)

    def hear(self, topic: str, payload: bytes) -> None:
        """Take a heartbeat; what is none, or not of whom its topic names, is left alone."""
        with suppress(EventError, ValueError):
            first, second = self.topics.parse_tail(topic)
            if topic.startswith(f"{self.topics.prefix}/nodes/"):
                node = decode_node(payload)
                if node.has_left:
                    self.nodes.pop((first, second), None)
                else:
                    self.nodes[first, second] = node
                return
            beat = decode_heartbeat(payload)
            if beat.member != second:
                return
            if beat.has_left:
                self.members.pop((first, second), None)
            else:
                self.members[first, second] = beat

    def of_group(self, group: str) -> list[Heartbeat]:
        """The members of a group, by name."""
        return [beat for (name, _), beat in sorted(self.members.items()) if name == group]


async def listen(
    address: BrokerAddress, topics: Topics, filters: Sequence[str], seconds: float
) -> Heard:
    """Listen for some seconds: more than one interval between heartbeats.

    Raises:
        BrokerError: Nobody answers there, or the link was lost.
    """
    heard = Heard(topics)

    def on_delivery(delivery: Delivery) -> None:
        delivery.ack()
        heard.hear(delivery.topic, delivery.payload)

    client_id = f"{topics.prefix.replace('/', '-')}-watch-{secrets.token_hex(4)}"
    async with open_link(address, client_id, on_delivery=on_delivery) as link:
        await link.subscribe(filters, qos=0)
        try:
            async with asyncio.timeout(seconds):
                await link.wait_lost()
        except TimeoutError:
            return heard
    raise BrokerError(f"the connection to the broker at {address} was lost while listening")
