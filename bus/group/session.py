"""A shard session: the persistent MQTT session through which one shard is consumed.

Its client id is fixed, so that the broker lets one connection own it: the newest. Losing it to
another member looks like any lost connection, which is why the session is opened again only as long
as its owner keeps this object running.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from bus.config import BrokerAddress
from bus.errors import BrokerError
from bus.mqtt import Delivery, open_link
from bus.retry import Backoff
from bus.topics import Topics

__all__ = ["ShardSession"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ShardSession:
    """Keeps the session of one shard open.

    Attributes:
        on_delivery: Called with the shard and each message.
        on_open: Called with the shard each time its subscriptions stand.
        token: Names the session if the broker did not know it when we opened it: what was sent
            before is not in its queue. None while we have only met a session that was there.
    """

    address: BrokerAddress
    topics: Topics
    group: str
    shard: int
    shards: int
    on_delivery: Callable[[int, Delivery], None]
    on_open: Callable[[int], None]
    token: str | None = None
    is_open: bool = False
    is_given_up: bool = False
    _backoff: Backoff = field(default_factory=Backoff)

    def give_up(self) -> None:
        """Take no more messages, and do not come back: the next owner is to have the shard."""
        self.is_given_up = True

    async def run(self) -> None:
        """Open the session, again and again, until cancelled or given up."""
        while not self.is_given_up:
            try:
                await self._hold()
                self._backoff.reset()
            except BrokerError as error:
                logger.info("shard %s-%d: %s", self.group, self.shard, error)
            finally:
                self.is_open = False
            await asyncio.sleep(self._backoff.next_seconds())

    async def _hold(self) -> None:
        async with open_link(
            self.address,
            self.topics.session(self.group, self.shard),
            is_clean=False,
            on_delivery=self._deliver,
        ) as link:
            # Also on a session that was there: its owner may have died before it had subscribed.
            await link.subscribe(self.topics.shard_filters(self.group, self.shard, self.shards))
            if not link.is_session_present:
                self.token = secrets.token_hex(8)
            self.is_open = True
            self.on_open(self.shard)
            await link.wait_lost()

    def _deliver(self, delivery: Delivery) -> None:
        if not self.is_given_up:
            self.on_delivery(self.shard, delivery)
