"""A shard session: the persistent MQTT session through which one shard is consumed.

Its client id is fixed, so that the broker lets one connection own it: the newest. Losing it to
another member looks like any lost connection. Whether it is opened again then is decided in
:mod:`bus.group.contest`, and otherwise by its owner, which ends this object.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bus.config import BrokerAddress
from bus.errors import BrokerError
from bus.group.contest import Contest
from bus.mqtt import Delivery, open_link
from bus.topics import Topics

__all__ = ["ShardSession"]

logger = logging.getLogger(__name__)


def _nobody_holds(shard: int) -> bool:
    return False


def _tell_nobody(shard: int) -> None: ...


@dataclass(slots=True)
class ShardSession:
    """Keeps the session of one shard open.

    Attributes:
        on_delivery: Called with the shard and each message.
        on_open: Called with the shard each time its subscriptions stand.
        on_lost: Called with the shard each time its connection is gone, and when it yields.
        is_held_elsewhere: Whether another member says that it holds the session of the shard.
        contest: Who else takes the session.
        clock: Monotonic time in seconds.
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
    on_lost: Callable[[int], None] = _tell_nobody
    is_held_elsewhere: Callable[[int], bool] = _nobody_holds
    contest: Contest = field(default_factory=Contest)
    clock: Callable[[], float] = time.monotonic
    token: str | None = None
    is_open: bool = False
    is_given_up: bool = False

    def give_up(self) -> None:
        """Take no more messages, and do not come back: the next owner is to have the shard."""
        self.is_given_up = True

    async def run(self) -> None:
        """Open the session, again and again, until cancelled, given up or left to another."""
        while not self.is_given_up and not self._is_away():
            try:
                await self._hold()
                pause_seconds = self.contest.lost(self.clock())
                self._report_loss()
            except BrokerError as error:
                pause_seconds = self.contest.failed()
                logger.info("shard %s-%d: %s", self.group, self.shard, error)
            finally:
                self.is_open = False
            self.on_lost(self.shard)
            if not self._is_away():
                await asyncio.sleep(pause_seconds)
        self.on_lost(self.shard)

    def _is_away(self) -> bool:
        is_held = self.is_held_elsewhere(self.shard)
        return self.contest.is_away(self.clock(), is_held=is_held)

    async def _hold(self) -> None:
        """Hold the session until it is lost.

        Raises:
            BrokerError: It was never ours.
        """
        async with open_link(
            self.address,
            self.topics.session(self.group, self.shard),
            is_clean=False,
            on_delivery=self._deliver,
        ) as link:
            # From here on another member has lost it, whether or not we come to subscribe.
            self.contest.opened(self.clock())
            try:
                # Also on a session that was there: its owner may have died before it subscribed.
                await link.subscribe(self.topics.shard_filters(self.group, self.shard, self.shards))
            except BrokerError:
                if link.is_lost:
                    return
                raise
            if not link.is_session_present:
                self.token = secrets.token_hex(8)
            self.is_open = True
            self.on_open(self.shard)
            await link.wait_lost()

    def _report_loss(self) -> None:
        losses = self.contest.losses
        if losses < 2:
            logger.info("shard %s-%d: its session was lost", self.group, self.shard)
            return
        logger.log(
            logging.WARNING if losses == 2 else logging.INFO,
            "shard %s-%d: its session was lost %d times in a row, to a member that is not heard "
            "here or by the broker's will: left alone for %.0f s",
            *(self.group, self.shard, losses, self.contest.policy.away(losses)),
        )

    def _deliver(self, delivery: Delivery) -> None:
        if not self.is_given_up:
            self.on_delivery(self.shard, delivery)
