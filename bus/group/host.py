"""One member of a group at work: its heartbeats, its view of the others, its shard sessions.

The host decides nothing about events: it hands deliveries to a :class:`Consumer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from bus.config import BrokerAddress
from bus.errors import BrokerError, ConfigError, EventError
from bus.group.heartbeat import Heartbeat, decode_heartbeat
from bus.group.membership import HEARTBEAT_SECONDS, Membership
from bus.group.session import ShardSession
from bus.mqtt import Delivery, Link, Will, open_link
from bus.retry import Backoff
from bus.topics import Topics

__all__ = ["Consumer", "GroupHost"]

logger = logging.getLogger(__name__)


class Consumer(Protocol):
    """What a worker does with the messages of its shards. Only :meth:`release` may take time."""

    def on_delivery(self, shard: int, delivery: Delivery) -> None:
        """A message of a shard."""

    def on_notice(self, delivery: Delivery) -> None:
        """A message of :attr:`GroupHost.notices`."""

    def on_shard(self, shard: int) -> None:
        """The session of a shard was opened, for the first time or again."""

    async def release(self, shards: frozenset[int]) -> None:
        """Finish the writes in hand for these shards and begin none: they are given up."""

    def idle(self, now: float) -> list[int]:
        """Shards with nothing in hand, and nothing received for a while."""

    def report(self) -> dict[str, Any]:
        """Counters for the heartbeat."""


@dataclass(slots=True)
class GroupHost:
    """Runs one member of a group.

    Attributes:
        notices: Further subscriptions of the member itself, at QoS 1 in a clean session.
        on_refused: Called with one line when the group has another number of shards.
    """

    address: BrokerAddress
    topics: Topics
    group: str
    member: str
    shards: int
    consumer: Consumer
    notices: Sequence[str] = ()
    interval_seconds: float = HEARTBEAT_SECONDS
    clock: Callable[[], float] = time.monotonic
    _membership: Membership = field(init=False)
    _sessions: dict[int, ShardSession] = field(default_factory=dict)
    _tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _link: Link | None = None
    _nudge: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._membership = Membership(self.member, self.shards, self.interval_seconds)

    @property
    def link(self) -> Link | None:
        """The member's own link; None while it is lost."""
        return self._link

    async def run(self, stop: asyncio.Event) -> None:
        """Take part in the group until ``stop`` is set, then leave it in order.

        Raises:
            ConfigError: The group runs with another number of shards.
        """
        backoff = Backoff()
        try:
            while not stop.is_set():
                try:
                    await self._take_part(stop)
                    backoff.reset()
                except BrokerError as error:
                    logger.warning("%s %s: %s", self.group, self.member, error)
                if not stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), backoff.next_seconds())
        finally:
            await self._give_up(frozenset(self._tasks))

    async def _take_part(self, stop: asyncio.Event) -> None:
        topic = self.topics.member(self.group, self.member)
        will = msgspec.json.encode(Heartbeat(self.member, self.shards, has_left=True))
        async with open_link(
            self.address,
            f"{self.topics.prefix.replace('/', '-')}-{self.group}-{self.member}",
            will=Will(topic, will),
            on_delivery=self._on_delivery,
        ) as link:
            await link.subscribe([self.topics.members_filter(self.group), *self.notices])
            self._link = link
            self._membership.link_up(self.clock())
            try:
                await self._beat(link, stop, topic)
            finally:
                self._link = None
                self._membership.link_down()
                await self._give_up(frozenset(self._tasks))
            if not link.is_lost:
                await link.publish(topic, will)

    async def _beat(self, link: Link, stop: asyncio.Event, topic: str) -> None:
        while not stop.is_set() and not link.is_lost:
            await self._reconcile()
            link.send_once(topic, msgspec.json.encode(self._heartbeat()))
            waits = {
                asyncio.ensure_future(event)
                for event in (stop.wait(), link.wait_lost(), self._nudge.wait())
            }
            _, pending = await asyncio.wait(
                waits, timeout=self.interval_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            for task in pending:
                task.cancel()
            self._nudge.clear()

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            member=self.member,
            shards=self.shards,
            owned=sorted(shard for shard, session in self._sessions.items() if session.is_open),
            idle=self.consumer.idle(self.clock()),
            sessions={str(k): s.token for k, s in self._sessions.items() if s.token and s.is_open},
            report=self.consumer.report(),
        )

    def _on_delivery(self, delivery: Delivery) -> None:
        delivery.ack()
        try:
            tail = self.topics.parse_tail(delivery.topic)
            is_beat = delivery.topic.startswith(f"{self.topics.prefix}/groups/")
            if not is_beat:
                self.consumer.on_notice(delivery)
            elif tail[-1] != self.member:
                self._on_heartbeat(decode_heartbeat(delivery.payload))
        except EventError as error:
            logger.warning("%s: ignored a message on %s: %s", self.group, delivery.topic, error)

    def _on_heartbeat(self, beat: Heartbeat) -> None:
        before = self._membership.members(self.clock())
        if beat.has_left:
            self._membership.left(beat.member)
        else:
            self._membership.heard(beat.member, beat.shards, self.clock())
        if before != self._membership.members(self.clock()):
            self._nudge.set()

    async def _reconcile(self) -> None:
        """Open the sessions of shards that became ours, close those that no longer are."""
        conflict = self._membership.conflict()
        if conflict is not None:
            member, shards = conflict
            raise ConfigError(
                f"group {self.group!r} has {shards} shards (member {member}) and this worker was "
                f"started with {self.shards}: use --shards {shards}, or stop the group to change it"
            )
        owned = self._membership.owned(self.clock())
        await self._give_up(frozenset(self._tasks) - owned)
        for shard in owned - frozenset(self._tasks):
            session = ShardSession(
                self.address,
                self.topics,
                self.group,
                shard,
                self.shards,
                self.consumer.on_delivery,
                self._on_open,
            )
            self._sessions[shard] = session
            self._tasks[shard] = asyncio.create_task(session.run())

    def _on_open(self, shard: int) -> None:
        self.consumer.on_shard(shard)
        self._nudge.set()

    async def _give_up(self, shards: frozenset[int]) -> None:
        if not shards:
            return
        # The writes in hand are finished and acknowledged before the sessions are let go of.
        await self.consumer.release(shards)
        tasks = [self._tasks.pop(shard) for shard in shards]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for shard in shards:
            self._sessions.pop(shard, None)
