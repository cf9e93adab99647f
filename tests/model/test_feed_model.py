"""The feed of a run under anything the road may do to it.

The model holds what the log has and what a broker would: every message that is not acknowledged
stays with it and is delivered again on the next link. Kinds with a limit of their own have tokens
or none, as it comes. Whatever happens before, in the end every id is written once, in the order
that its kind allows, and every message is acknowledged once on the link it came on last.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from bus.feed import Item, RunFeed
from bus.idranges import IdRanges
from bus.mqtt import Delivery
from bus.sinks import BatchLimits, Marks
from tests.fixtures.roadparts import FakeLink, event_bytes, source_of

SOURCES = [source_of(rank=rank) for rank in (0, 1)]
LAST = 8
PATIENCE = 5.0

LIMITED = ["checkpoint", "metrics"]
"""The kinds that may have no token."""
FINAL = "final"
"""A checkpoint that is not held to the limit."""
KINDS = st.sampled_from(["tags", "tags", *LIMITED, *LIMITED, FINAL, "run_finished"])

sources = st.sampled_from(SOURCES)
ids = st.integers(1, LAST)


def make_item(number: int, kind: str, delivery: Delivery | None, source: str, since: float) -> Item:
    """An event of a kind; what is in it matters for final checkpoints only."""
    rank = int(source.split("/")[3])
    if kind != FINAL:
        return Item(source, number, kind, event_bytes(number, kind, rank=rank), delivery, since)
    blob = {"name": "best.pt", "size": 1, "sha256": "0" * 64}
    data = {"blob": blob, "final": True}
    raw = event_bytes(number, "checkpoint", data, rank=rank, dataref="file:///store/1")
    return Item(source, number, "checkpoint", raw, delivery, since)


class FeedMachine(RuleBasedStateMachine):
    """Delivers, writes, loses links, lets go and reads the log, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.link = FakeLink()
        self.feed = RunFeed()
        self.is_opened = False
        self.sink = Marks()
        self.kinds: dict[str, list[str]] = {}
        self.blocked: frozenset[str] = frozenset()
        self.log: dict[str, set[int]] = {source: set() for source in SOURCES}
        self.queue: list[tuple[str, int, Delivery]] = []
        """What the broker holds: unacknowledged on the current link."""
        self.batch: list[Item] = []

    @initialize(kinds=st.lists(KINDS, min_size=LAST * 2, max_size=LAST * 2))
    def choose_kinds(self, kinds: list[str]) -> None:
        """What the events of each source are, from the first to the last."""
        self.kinds = dict(zip(SOURCES, (kinds[:LAST], kinds[LAST:]), strict=True))

    def kind(self, source: str, number: int) -> str:
        return self.kinds[source][number - 1]

    def item(self, source: str, number: int, delivery: Delivery | None = None) -> Item:
        return make_item(number, self.kind(source, number), delivery, source, self.now)

    def open_ids(self, source: str, below: int = LAST + 1) -> list[int]:
        """The ids that the sink does not have."""
        return [n for n in range(1, below) if not self.sink.is_applied(source, n)]

    # -- what the world does

    def deliver(self, source: str, number: int) -> None:
        delivery = self.link.deliver(f"{source}/{number}")
        self.queue.append((source, number, delivery))
        settled = self.feed.offer(self.item(source, number, delivery))
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
        for number in self.open_ids(source)[:count]:
            self.deliver(source, number)

    @rule(source=sources, count=st.integers(1, 4))
    def publish_and_store_what_comes_next(self, source: str, count: int) -> None:
        """The usual case: it comes, and the log has it."""
        numbers = [n for n in self.open_ids(source) if not self.feed.has(source, n)][:count]
        for number in numbers:
            self.log[source].add(number)
            self.deliver(source, number)
        self.hear_what_is_stored(source)

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def deliver_again_with_the_same_packet_id(self, data: st.DataObject) -> None:
        source, number, delivery = data.draw(st.sampled_from(self.queue))
        again = Delivery(delivery.topic, delivery.payload, delivery.packet_id, delivery.link)
        assert self.feed.offer(self.item(source, number, again)) is None

    @rule(data=st.data())
    def lose_the_link(self, data: st.DataObject) -> None:
        self.link.is_lost = True
        self.link = FakeLink()
        held, self.queue = self.queue, []
        for source, number, _ in data.draw(st.permutations(held)):
            self.deliver(source, number)

    @rule(blocked=st.frozensets(st.sampled_from(LIMITED)))
    def spend_or_gain_tokens(self, blocked: frozenset[str]) -> None:
        self.blocked = blocked

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
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        """Another worker had written some before, and parked others."""
        for source in SOURCES:
            parked: set[str] = set()
            for number in self.open_ids(source, data.draw(st.integers(1, LAST + 1))):
                kind = self.kind(source, number)
                if kind in LIMITED and (kind in parked or data.draw(st.booleans())):
                    parked.add(kind)
                elif kind == "run_finished" and self.open_ids(source, number):
                    break
                else:
                    self.sink.add_applied(source, number)
        self.is_opened = True
        self.acknowledge(self.feed.open(self.sink.copy()))

    @precondition(lambda self: self.is_opened and not self.batch)
    @rule()
    def read_the_marks_again(self) -> None:
        self.acknowledge(self.feed.open(self.sink.copy()))

    @precondition(lambda self: self.is_opened)
    @rule(data=st.data())
    def replace_the_worker(self, data: st.DataObject) -> None:
        """The one before may have written some of its batch."""
        batch, self.batch = self.batch, []
        self.write(batch if data.draw(st.booleans()) else [])
        self.feed, self.is_opened = RunFeed(), False
        self.lose_the_link(data)

    @rule(seconds=st.sampled_from([0.0, PATIENCE]), data=st.data())
    def let_go(self, seconds: float, data: st.DataObject) -> None:
        self.now += seconds
        parked_seconds = data.draw(st.sampled_from([None, 0.0]))
        self.acknowledge(self.feed.let_go(self.now, PATIENCE, parked_seconds))

    @precondition(lambda self: self.is_opened and not self.batch)
    @rule(events=st.integers(1, 4))
    def read_and_write(self, events: int) -> None:
        """The usual case: a batch, with all that it needs."""
        self.read_the_log()
        self.read_what_was_parked(100)
        self.begin_a_batch(events)
        if self.batch:
            self.end_the_batch()

    @rule()
    def read_the_log(self) -> None:
        for source, first, last in self.feed.wanted(self.now):
            assert set(range(first, last + 1)) <= self.log[source], "wanted what the log lacks"
            for number in range(first, last + 1):
                assert not self.feed.marks.is_applied(source, number), "read again"
                assert self.feed.offer(self.item(source, number)) is None

    @rule(pages=st.integers(1, 3))
    def read_what_was_parked(self, pages: int) -> None:
        for source, first, last, kind in self.feed.wanted_parked(self.blocked):
            assert kind not in self.blocked
            assert first in self.log[source], "left to a log that lacks it"
            found = [n for n in sorted(self.log[source]) if first <= n <= last]
            of_kind = [n for n in found if self.item(source, n).kind == kind]
            for number in of_kind[:pages]:
                assert self.feed.offer(self.item(source, number)) is None

    @precondition(lambda self: self.is_opened and not self.batch)
    @rule(events=st.integers(1, 4), data=st.data())
    def begin_a_batch(self, events: int, data: st.DataObject | None = None) -> None:
        left_out: frozenset[tuple[str, int]] = frozenset()
        if data is not None and (parked := self.feed.parked()):
            left_out = data.draw(st.frozensets(st.sampled_from(parked).map(key_of)))
        self.batch = self.feed.take(BatchLimits(events=events), self.blocked, left_out)
        for source in SOURCES:
            taken = [one.number for one in self.batch if one.source == source]
            assert taken == sorted(taken), "out of order"
            for number in taken:
                if (source, number) not in left_out:
                    self.check_may_go(source, number, set(taken))

    def check_may_go(self, source: str, number: int, batch: set[int]) -> None:
        """What it passes is of a limited kind, and not of its own."""
        kind = self.kind(source, number)
        assert kind not in self.blocked
        passed = {self.kind(source, n) for n in self.open_ids(source, number) if n not in batch}
        assert passed <= set(LIMITED) - {kind}, "passed what must come first"
        assert not (kind == "run_finished" and passed), "the end came before the rest"

    def write(self, items: list[Item]) -> None:
        for one in items:
            assert not self.sink.is_applied(one.source, one.number), "written twice"
            self.sink.add_applied(one.source, one.number)
            self.feed.marks.add_applied(one.source, one.number)

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
    def nothing_is_held_that_the_broker_does_not_hold(self) -> None:
        # Deliveries of links that are lost are re-delivered; at most each message once.
        assert self.feed.held() <= len({entry[:2] for entry in self.queue})

    @invariant()
    def the_lag_is_what_the_sink_lacks(self) -> None:
        top = {source: max(self.log[source], default=0) for source in SOURCES}
        lacking = sum(len(self.open_ids(source, top[source] + 1)) for source in SOURCES)
        assert self.feed.lag() >= 0
        if self.is_opened and not self.batch:
            assert self.feed.lag() <= lacking

    def teardown(self) -> None:
        """In the end everything is stored, and everything arrives."""
        if not self.kinds:
            return
        if not self.is_opened:
            self.is_opened = True
            self.acknowledge(self.feed.open(self.sink.copy()))
        if self.batch:
            self.end_the_batch()
        for source in SOURCES:
            self.log[source] = set(range(1, LAST + 1))
            self.hear_what_is_stored(source)
        self.blocked = frozenset(LIMITED)
        self.go_on()
        for source in SOURCES:
            left = self.open_ids(source)
            ends = [n for n in left if self.kind(source, n) == "run_finished"]
            waiting = [n for n in left if n < min(ends, default=LAST + 1)]
            assert {self.kind(source, n) for n in waiting} <= set(LIMITED), "held up"
            assert not ends or waiting, "the end waits for nothing"
        assert self.feed.is_held()
        assert self.feed.is_ending() == any(
            self.kind(source, n) == "run_finished"
            for source in SOURCES
            for n in self.open_ids(source)
        )
        self.blocked = frozenset()
        self.go_on()
        for source in SOURCES:
            assert self.open_ids(source) == []
        assert not self.queue, "some message was never acknowledged"
        assert self.feed.held() == self.feed.lag() == 0
        assert self.feed.is_quiet()

    def go_on(self) -> None:
        """As long as anything may happen by itself."""
        for _ in range(2 * LAST + 2):
            self.now += 2.0
            self.read_the_log()
            self.read_what_was_parked(100)
            self.begin_a_batch(100)
            if self.batch:
                self.end_the_batch()


def key_of(one: Item) -> tuple[str, int]:
    return one.source, one.number


TestFeed = FeedMachine.TestCase
TestFeed.settings = settings(max_examples=400, stateful_step_count=50, deadline=None)
