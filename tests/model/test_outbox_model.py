"""The outbox against a broker that forgets and a log group that comes and goes.

The broker acknowledges what it holds in memory, and may lose it: when it is wiped, when its queue
overflows, or when the log's session does not exist yet. Answers of the log group get lost too. In
the end everything has to be stored, and nothing may have been sent more often than there was a
reason to.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bus.idranges import IdRanges
from publishers.shipper.outbox import IDLE_GRACE_SECONDS, RESENDS_AT_ONCE, Outbox

WINDOW = 8
"""Publishes without acknowledgement."""


class OutboxMachine(RuleBasedStateMachine):
    """A shipper's view of the road, with everything on it that may break."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.top = 0
        self.box = Outbox()
        self.sends: Counter[int] = Counter()
        self.reasons: Counter[int] = Counter()
        """How often each event may have been sent, at the most."""
        self.published: dict[int, int] = {}
        """When each was published last, as a count."""
        self.turn = 0
        self.wire: list[int] = []
        """Published, and not yet with the broker or not yet acknowledged."""
        self.queue: list[int] = []
        self.stored: set[int] = set()
        self.has_session = True
        self.is_log_here = True

    # -- the shipper

    @initialize(events=st.integers(0, 6), stored=st.integers(0, 6))
    def start(self, events: int, stored: int) -> None:
        """An earlier shipper has cut some; the broker and the log have any of them."""
        self.top = events
        self.stored = set(range(1, min(stored, events) + 1))
        self.box.recover([(n, 10) for n in range(1, events + 1)], self.now)
        self.reasons.update(range(1, events + 1))

    @rule(events=st.integers(1, 5))
    def cut(self, events: int) -> None:
        for _ in range(events):
            self.top += 1
            self.box.add(self.top, 10)
            self.reasons[self.top] += 1

    @rule()
    def send(self) -> None:
        self.publish()

    def publish(self, may_be_new: bool = True) -> list[int]:
        sent: list[int] = []
        while len(self.wire) < WINDOW:
            number = self.box.next_to_send(may_be_new)
            if number is None:
                break
            self.box.sent(number)
            self.turn += 1
            self.published[number] = self.turn
            self.wire.append(number)
            self.sends[number] += 1
            sent.append(number)
        return sent

    # -- the broker

    @rule(count=st.integers(1, WINDOW), is_dropped=st.booleans())
    def broker_takes(self, count: int, is_dropped: bool) -> None:
        """It acknowledges in order, and keeps what it has a session for and room."""
        for number in self.wire[:count]:
            if self.has_session and not is_dropped:
                self.queue.append(number)
            self.box.acked(number, self.now)
        del self.wire[:count]

    @rule(arrived=st.integers(0, WINDOW))
    def link_is_lost(self, arrived: int) -> None:
        """Some of what was not acknowledged may have come through."""
        if self.has_session:
            self.queue += self.wire[:arrived]
        self.reasons.update(self.wire)
        self.wire.clear()
        self.box.link_lost()

    @rule()
    def broker_is_wiped(self) -> None:
        self.queue.clear()
        self.has_session = False

    @precondition(lambda self: self.queue)
    @rule()
    def broker_delivers_again(self) -> None:
        self.queue.append(self.queue[0])

    # -- the log group

    @precondition(lambda self: self.is_log_here and self.queue)
    @rule(count=st.integers(1, 10), is_answer_lost=st.booleans())
    def log_stores(self, count: int, is_answer_lost: bool) -> None:
        self.stored.update(self.queue[:count])
        del self.queue[:count]
        if not is_answer_lost:
            self.answer()

    def answer(self) -> None:
        has_resends = self.box.next_to_send(may_be_new=False) is not None
        latest = max((self.published.get(n, 0) for n in self.stored), default=0)
        holes = {n for n in range(1, self.top + 1) if self.published.get(n, 0) < latest}
        holes -= self.stored | set(self.wire)
        self.reasons.update(holes)
        self.box.confirmed(IdRanges((n, n) for n in sorted(self.stored)), self.now)
        again = self.publish(may_be_new=False)
        assert has_resends or set(again) <= holes, "sent again without being a hole"

    @precondition(lambda self: self.is_log_here)
    @rule()
    def log_begins_a_session(self) -> None:
        """After a wipe; or its heartbeat about it comes only now."""
        if not self.has_session:
            self.has_session = True
        self.reasons.update(range(1, self.top + 1))
        self.box.session_began(self.now)

    @precondition(lambda self: self.is_log_here and self.has_session and not self.queue)
    @rule()
    def log_is_idle(self) -> None:
        self.reasons.update(range(1, self.top + 1))
        self.box.shard_idle(self.now)

    @rule()
    def log_goes_away_for_an_hour(self) -> None:
        """Whatever was queued before is sent once; then nothing is sent twice."""
        self.is_log_here = False
        while self.publish():
            self.broker_takes(WINDOW, False)
        before = self.sends.copy()
        for _ in range(720):
            self.now += 5.0
            self.box.tick(self.now, is_log_alive=False)
            self.publish()
        assert self.sends == before, "a storm without anybody to store it"

    @rule()
    def log_comes_back(self) -> None:
        self.is_log_here = True

    @rule(seconds=st.sampled_from([0.1, 1.5, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.is_log_here:
            self.reasons.update(range(1, self.top + 1))
        self.box.tick(self.now, self.is_log_here)

    # -- what has to hold

    @invariant()
    def nothing_is_sent_without_a_reason(self) -> None:
        assert all(self.sends[n] <= self.reasons[n] for n in self.sends)

    @invariant()
    def it_knows_what_is_missing(self) -> None:
        assert self.box.waiting >= self.top - len(self.stored)
        assert self.box.published_bytes >= 0

    def teardown(self) -> None:
        """Once nothing breaks any more everything is stored, soon and without a storm."""
        before = sum(self.sends.values())
        missing = self.top - len(self.stored)
        self.is_log_here = self.has_session = True
        began = self.now
        while self.box.waiting:
            self.now += 1.0
            assert self.now - began < 1000, f"{self.box.waiting} events are never stored"
            while self.publish():
                self.broker_takes(WINDOW, False)
            self.broker_takes(WINDOW, False)
            if self.queue:
                self.stored.update(self.queue)
                self.queue.clear()
                self.box.confirmed(IdRanges((n, n) for n in sorted(self.stored)), self.now)
            else:
                self.box.shard_idle(self.now)
            self.box.tick(self.now, is_log_alive=True)
        assert self.stored == set(range(1, self.top + 1))
        # The last one asks where the log's answer was lost: one more than what is missing.
        assert sum(self.sends.values()) - before <= 3 * missing + 2 * WINDOW + 8


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_a_wiped_broker_with_thousands_waiting_costs_each_event_one_resend() -> None:
    count = 20 * RESENDS_AT_ONCE
    box = Outbox()
    sends: Counter[int] = Counter()
    stored: set[int] = set()

    def publish(now: float, is_kept: bool) -> int:
        sent = 0
        while (number := box.next_to_send()) is not None:
            box.sent(number)
            box.acked(number, now)
            sends[number] += 1
            sent += 1
            if is_kept:
                stored.add(number)
        return sent

    for number in range(1, count + 1):
        box.add(number, 10)
    publish(0.0, is_kept=False)
    box.session_began(IDLE_GRACE_SECONDS)
    rounds = 0
    while box.waiting:
        rounds += 1
        assert publish(2.0, is_kept=True)
        box.confirmed(IdRanges((n, n) for n in sorted(stored)), 2.0)
    assert set(sends.values()) == {2}
    assert rounds <= 21
