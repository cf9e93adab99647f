"""The feed of a run under anything the road may do to it.

The model holds what the log has and what a broker would: every message that is not acknowledged
stays with it and is delivered again on the next link. Whatever happens before, in the end every id
is written once and in order, and every message is acknowledged once on the link it came on last.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bus.feed import Item, RunFeed
from bus.idranges import IdRanges
from bus.mqtt import Delivery
from bus.sinks import BatchLimits, Marks
from tests.fixtures.roadparts import FakeLink, item, source_of

SOURCES = [source_of(rank=rank) for rank in (0, 1)]
LAST = 6
PATIENCE = 5.0

sources = st.sampled_from(SOURCES)
ids = st.integers(1, LAST)


class FeedMachine(RuleBasedStateMachine):
    """Delivers, writes, loses links, lets go and reads the log, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.link = FakeLink()
        self.feed = RunFeed()
        self.is_opened = False
        self.sink = Marks()
        self.written: dict[str, list[int]] = {source: [] for source in SOURCES}
        self.log: dict[str, set[int]] = {source: set() for source in SOURCES}
        self.queue: list[tuple[str, int, Delivery]] = []
        """What the broker holds: unacknowledged on the current link."""
        self.batch: list[Item] = []

    # -- what the world does

    def deliver(self, source: str, number: int) -> None:
        delivery = self.link.deliver(f"{source}/{number}")
        self.queue.append((source, number, delivery))
        settled = self.feed.offer(item(number, delivery, source, self.now))
        self.acknowledge([settled] if settled is not None else [])

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.link is not self.link:  # type: ignore[comparison-overlap]  # a stand-in
                continue
            held = [entry for entry in self.queue if entry[2] is delivery]
            assert len(held) == 1, "acknowledged twice"
            source, number, _ = held[0]
            self.queue.remove(held[0])
            copies = [entry for entry in self.queue if entry[:2] == (source, number)]
            is_safe = self.sink.is_applied(source, number) or number in self.log[source]
            assert is_safe or copies, "acknowledged before it was written or stored"

    @rule(source=sources, number=ids)
    def publish(self, source: str, number: int) -> None:
        self.deliver(source, number)

    @rule(source=sources, count=st.integers(1, 3))
    def publish_what_comes_next(self, source: str, count: int) -> None:
        top = len(self.written[source])
        for number in range(top + 1, min(top + count, LAST) + 1):
            self.deliver(source, number)

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def deliver_again_with_the_same_packet_id(self, data: st.DataObject) -> None:
        source, number, delivery = data.draw(st.sampled_from(self.queue))
        again = Delivery(delivery.topic, delivery.payload, delivery.packet_id, delivery.link)
        assert self.feed.offer(item(number, again, source, self.now)) is None

    @rule(data=st.data())
    def lose_the_link(self, data: st.DataObject) -> None:
        self.link.is_lost = True
        self.link = FakeLink()
        held, self.queue = self.queue, []
        for source, number, _ in data.draw(st.permutations(held)):
            self.deliver(source, number)

    @rule(seconds=st.sampled_from([0.3, 1.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(source=sources, number=ids)
    def store(self, source: str, number: int) -> None:
        self.log[source].add(number)

    # -- what the worker does

    @rule(source=sources)
    def hear_what_is_stored(self, source: str) -> None:
        self.feed.stored(source, IdRanges((n, n) for n in self.log[source]))

    @precondition(lambda self: not self.is_opened)
    @rule(ahead=st.lists(st.tuples(sources, ids), max_size=4))
    def open(self, ahead: list[tuple[str, int]]) -> None:
        """Another worker had written some before."""
        for source, number in ahead:
            for below in range(1, number + 1):
                if not self.sink.is_applied(source, below):
                    self.sink.add_applied(source, below)
                    self.written[source].append(below)
        self.is_opened = True
        self.acknowledge(self.feed.open(self.sink.copy()))

    @rule()
    def let_go(self) -> None:
        self.acknowledge(self.feed.let_go(self.now, PATIENCE))

    @rule()
    def read_the_log(self) -> None:
        for source, first, last in self.feed.wanted(self.now):
            assert set(range(first, last + 1)) <= self.log[source], "wanted what the log lacks"
            for number in range(first, last + 1):
                assert self.feed.offer(item(number, None, source, self.now)) is None

    @precondition(lambda self: self.is_opened and not self.batch)
    @rule(events=st.integers(1, 4))
    def begin_a_batch(self, events: int) -> None:
        self.batch = self.feed.take(BatchLimits(events=events))
        for source in SOURCES:
            taken = [one.number for one in self.batch if one.source == source]
            top = len(self.written[source])
            assert taken == list(range(top + 1, top + len(taken) + 1)), "out of order"

    def write(self, items: list[Item]) -> None:
        for one in items:
            assert not self.sink.is_applied(one.source, one.number), "written twice"
            self.sink.add_applied(one.source, one.number)
            self.feed.marks.add_applied(one.source, one.number)
            self.written[one.source].append(one.number)

    @precondition(lambda self: self.batch)
    @rule()
    def end_the_batch(self) -> None:
        batch, self.batch = self.batch, []
        self.write(batch)
        self.acknowledge(self.feed.settle(batch))

    @precondition(lambda self: self.batch)
    @rule(data=st.data())
    def break_the_batch_off(self, data: st.DataObject) -> None:
        batch, self.batch = self.batch, []
        self.write(batch[: data.draw(st.integers(0, len(batch)))])
        self.acknowledge(self.feed.put_back(batch))

    @invariant()
    def order_is_kept(self) -> None:
        for source in SOURCES:
            assert self.written[source] == list(range(1, len(self.written[source]) + 1))

    @invariant()
    def nothing_is_held_that_the_broker_does_not_hold(self) -> None:
        # Deliveries of links that are lost are re-delivered; at most each message once.
        assert self.feed.held() <= len({entry[:2] for entry in self.queue})

    def teardown(self) -> None:
        """In the end everything is stored, and everything arrives."""
        if not self.is_opened:
            self.open([])
        if self.batch:
            self.end_the_batch()
        for source in SOURCES:
            self.log[source] = set(range(1, LAST + 1))
            self.hear_what_is_stored(source)
        for _ in range(8):
            self.now += 2.0
            self.read_the_log()
            self.begin_a_batch(100)
            if self.batch:
                self.end_the_batch()
        for source in SOURCES:
            assert self.written[source] == list(range(1, LAST + 1))
        assert not self.queue, "some message was never acknowledged"
        assert self.feed.held() == 0
        assert self.feed.is_quiet()


TestFeed = FeedMachine.TestCase
TestFeed.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
