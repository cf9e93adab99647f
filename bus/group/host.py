"""One member of a group at work: its heartbeats, its view of the others, its shard sessions.

The host decides nothing about events: it hands deliveries to a :class:`Consumer`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from bus.config import BrokerAddress
from bus.errors import BrokerError, ConfigError, EventError
from bus.group.contest import ContestPolicy, Contests
from bus.group.heartbeat import Heartbeat, decode_heartbeat
from bus.group.membership import HEARTBEAT_SECONDS, Membership
from bus.group.session import ShardSession
from bus.mqtt import Delivery, Link, Will, open_link
from bus.retry import Backoff
from bus.topics import Topics
from bus.waiting import end_tasks, wait_for_event

__all__ = ["Consumer", "GroupHost"]

logger = logging.getLogger(__name__)

REMEMBERED_STRANGERS = 100


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
        on_heartbeat: Told of each heartbeat of the others, their last one included.
        contest_policy: How long shards are left alone that another member takes again and again.
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
    on_heartbeat: Callable[[Heartbeat], None] | None = None
    contest_policy: ContestPolicy = field(default_factory=ContestPolicy)
    _contests: Contests = field(init=False)
    _membership: Membership = field(init=False)
    _sessions: dict[int, ShardSession] = field(default_factory=dict)
    _tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _link: Link | None = None
    _is_leaving: bool = False
    _beaten_at: float = 0.0
    _nudge: asyncio.Event = field(default_factory=asyncio.Event)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _refused: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._membership = Membership(self.member, self.shards, self.interval_seconds)
        self._contests = Contests(self.contest_policy)

    @property
    def link(self) -> Link | None:
        """The member's own link; None while it is lost."""
        return self._link

    def tell_now(self) -> None:
        """Send the next heartbeat at once: the others are to know what has changed."""
        self._news.set()

    async def publish(self, topic: str, payload: bytes) -> None:
        """Publish on the member's own link with QoS 1, and wait for the acknowledgement.

        Raises:
            BrokerError: The link is lost, or nothing came for 3 s.
        """
        if self._link is None:
            raise BrokerError("the connection to the broker is lost")
        await self._link.publish(topic, payload)

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
                    await wait_for_event(stop, backoff.next_seconds())
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
            self._beaten_at = self.clock()
            self._link = link
            self._membership.link_up(self.clock())
            try:
                await self._beat(link, stop, topic)
            finally:
                self._membership.link_down()
                self._contests.clear()
                try:
                    await self._give_up(frozenset(self._tasks))
                finally:
                    # Last: what is stored while we leave is still confirmed.
                    self._link = None
            if not link.is_lost:
                await link.publish(topic, will)

    async def _beat(self, link: Link, stop: asyncio.Event, topic: str) -> None:
        """Send heartbeats until the end, and follow the assignment beside it.

        Beside it, since giving up a shard may take longer than the others' patience.
        """
        self._is_leaving = False
        follow = asyncio.create_task(self._follow())
        ends = [asyncio.create_task(stop.wait()), asyncio.create_task(link.wait_lost())]
        self._beaten_at = self.clock()
        try:
            while not any(task.done() for task in (follow, *ends)):
                self._beaten_at = self._now()
                link.send_once(topic, msgspec.json.encode(self._heartbeat()))
                await self._until_news(follow, *ends)
        finally:
            await end_tasks(ends)
            # Not cancelled, but when we are: a shard that is being given up is given up to the end.
            self._is_leaving = True
            self._nudge.set()
            await asyncio.wait((follow,))
        follow.result()

    def _now(self) -> float:
        """The time; asked for before every look at who is there.

        When we stood still (SIGSTOP, a suspended machine) nobody was heard meanwhile, and they are
        not gone. Whichever task runs first must know it.
        """
        now = self.clock()
        if self._link and now - self._beaten_at > self._membership.patience_seconds:
            self._membership.link_up(now)
            self._beaten_at = now
        return now

    async def _until_news(self, *ends: asyncio.Task[Any]) -> None:
        """Wait until the next heartbeat is due: at once when there is news."""
        news = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait(
                (news, *ends), timeout=self.interval_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            news.cancel()
        self._news.clear()

    async def _follow(self) -> None:
        """Own what the assignment says, until we leave."""
        while not self._is_leaving:
            await self._reconcile()
            await wait_for_event(self._nudge, self.interval_seconds)
            self._nudge.clear()

    def _heartbeat(self) -> Heartbeat:
        owned = self._held()
        return Heartbeat(
            member=self.member,
            shards=self.shards,
            owned=owned,
            idle=self.consumer.idle(self.clock()),
            sessions={str(k): t for k in owned if (t := self._sessions[k].token)},
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
                beat = decode_heartbeat(delivery.payload)
                if beat.member != tail[-1]:
                    raise EventError("member", f"{beat.member!r} is not the member of the topic")
                self._on_heartbeat(beat)
        except EventError as error:
            logger.warning("%s: ignored a message on %s: %s", self.group, delivery.topic, error)

    def _on_heartbeat(self, beat: Heartbeat) -> None:
        now = self._now()
        before = self._membership.members(now)
        if self._contests.away:
            self._nudge.set()  # what the other holds may have changed
        if beat.has_left:
            self._membership.left(beat.member)
        else:
            self._membership.heard(beat.member, beat.shards, now, beat.owned)
            self._warn_of_stranger(beat, now)
        members = self._membership.members(now)
        if before != members:
            self._nudge.set()
            self._news.set()
        if not set(members) <= set(before):
            self._contests.over()
        if self.on_heartbeat is not None:
            self.on_heartbeat(beat)

    def _warn_of_stranger(self, beat: Heartbeat, now: float) -> None:
        if beat.shards == self.shards or self._membership.conflict(now) is not None:
            return
        if beat.member not in self._refused and len(self._refused) < REMEMBERED_STRANGERS:
            self._refused.add(beat.member)
            logger.warning(
                "group %r has %d shards: member %s was started with %d and takes no part",
                *(self.group, self.shards, beat.member, beat.shards),
            )

    async def _reconcile(self) -> None:
        """Open the sessions of shards that became ours, close those that no longer are."""
        yielded = frozenset(shard for shard, task in self._tasks.items() if task.done())
        for shard in yielded:
            self._tasks[shard].result()  # an error of ours: better to end than to own nothing
        now = self._now()
        conflict = self._membership.conflict(now)
        if conflict is not None:
            member, shards = conflict
            raise ConfigError(
                f"group {self.group!r} has {shards} shards (member {member}) and this worker was "
                f"started with {self.shards}: use --shards {shards}, or stop the group to change it"
            )
        owned = self._membership.owned(now, self._held())
        owned = self._contests.look(owned, now, self._membership.held_by_others(now))
        await self._give_up(yielded | (frozenset(self._tasks) - owned))
        for shard in owned - frozenset(self._tasks):
            session = ShardSession(
                self.address,
                self.topics,
                self.group,
                shard,
                self.shards,
                self.consumer.on_delivery,
                self._on_open,
                self._on_lost,
                self._is_held_elsewhere,
                self._contests.of(shard),
                self.clock,
            )
            self._sessions[shard] = session
            self._tasks[shard] = asyncio.create_task(session.run())

    def _held(self) -> list[int]:
        """The shards whose sessions stand, as the next heartbeat will say."""
        return sorted(k for k, s in self._sessions.items() if s.is_open and not s.is_given_up)

    def _on_open(self, shard: int) -> None:
        self.consumer.on_shard(shard)
        self._news.set()

    def _on_lost(self, shard: int) -> None:
        """The others are to know at once, and if another holds the shard it is to be released."""
        self._news.set()
        self._nudge.set()

    def _is_held_elsewhere(self, shard: int) -> bool:
        return shard in self._membership.held_by_others(self._now())

    async def _give_up(self, shards: frozenset[int]) -> None:
        if not shards:
            return
        for shard in shards:
            self._sessions[shard].give_up()
        self._news.set()  # who waits for them may come
        try:
            # The writes in hand are finished and acknowledged before the sessions are let go of.
            await self.consumer.release(shards)
        finally:
            tasks = [self._tasks.pop(shard) for shard in shards]
            for shard in shards:
                self._sessions.pop(shard, None)
            await end_tasks(tasks)
