"""What a sink worker knows about one run."""

from __future__ import annotations

from bus.feed import RunFeed
from bus.idranges import IdRanges
from bus.mqtt import Delivery
from bus.sinks import BatchLimits, Marks
from bus.sourcefeed import TAIL_GRACE_SECONDS
from tests.fixtures.roadparts import SOURCE, FakeLink, item, source_of

LIMITS = BatchLimits()
OTHER = source_of(rank=1)


def numbers(feed: RunFeed, limits: BatchLimits = LIMITS) -> list[int]:
    return [taken.number for taken in feed.take(limits)]


def apply(feed: RunFeed) -> list[Delivery]:
    """Write whatever can be written."""
    done: list[Delivery] = []
    while batch := feed.take(LIMITS):
        for taken in batch:
            feed.marks.add_applied(taken.source, taken.number)
        done += feed.settle(batch)
    return done


def test_events_come_out_in_order_and_only_without_a_hole_below() -> None:
    feed = RunFeed()
    for number in (3, 1, 5):
        feed.offer(item(number))
    assert numbers(feed) == [1]
    feed.offer(item(2))
    assert numbers(feed) == []  # 1 is in hand


def test_an_event_that_is_applied_is_acknowledged_and_dropped() -> None:
    feed, link = RunFeed(Marks({SOURCE: IdRanges([(1, 5)])})), FakeLink()
    delivery = link.deliver()
    assert feed.offer(item(3, delivery)) == delivery
    assert not feed.has_work()


def test_a_second_copy_is_acknowledged_while_the_first_is_held() -> None:
    feed, link = RunFeed(), FakeLink()
    first, second = link.deliver(), link.deliver()
    assert feed.offer(item(1, first)) is None
    assert feed.offer(item(1, second)) == second
    assert apply(feed) == [first]


def test_the_same_delivery_again_is_not_acknowledged_twice() -> None:
    # NATS delivers what is held again, with the same packet id.
    feed, link = RunFeed(), FakeLink()
    delivery = link.deliver()
    feed.offer(item(1, delivery))
    again = Delivery(delivery.topic, delivery.payload, delivery.packet_id, delivery.link)
    assert feed.offer(item(1, again)) is None
    assert apply(feed) == [delivery]


def test_what_comes_again_on_a_new_link_is_acknowledged_there() -> None:
    feed, old, new = RunFeed(), FakeLink(), FakeLink()
    feed.offer(item(1, old.deliver()))
    old.is_lost = True
    again = new.deliver()
    assert feed.offer(item(1, again)) is None
    assert apply(feed) == [again]


def test_what_comes_again_while_it_is_being_written_is_acknowledged_there() -> None:
    feed, old, new = RunFeed(), FakeLink(), FakeLink()
    feed.offer(item(1, old.deliver()))
    batch = feed.take(LIMITS)
    old.is_lost = True
    again = new.deliver()
    feed.offer(item(1, again))
    feed.marks.add_applied(SOURCE, 1)
    assert feed.settle(batch) == [again]


def test_a_batch_that_broke_off_waits_again() -> None:
    feed, link = RunFeed(), FakeLink()
    deliveries = [link.deliver() for _ in range(3)]
    for number, delivery in enumerate(deliveries, 1):
        feed.offer(item(number, delivery))
    batch = feed.take(LIMITS)
    feed.marks.add_applied(SOURCE, 1)
    # What the sink has of it is acknowledged: nobody else would.
    assert feed.put_back(batch) == [deliveries[0]]
    assert numbers(feed) == [2, 3]


def test_marks_that_are_read_later_settle_what_they_cover() -> None:
    feed, link = RunFeed(), FakeLink()
    deliveries = [link.deliver() for _ in range(3)]
    for number, delivery in enumerate(deliveries, 1):
        feed.offer(item(number, delivery))
    assert feed.open(Marks({SOURCE: IdRanges([(1, 2)])})) == deliveries[:2]
    assert numbers(feed) == [3]


def test_a_batch_keeps_to_the_limits_and_holds_one_event_at_least() -> None:
    feed = RunFeed()
    for number in range(1, 8):
        feed.offer(item(number))
    assert numbers(feed, BatchLimits(events=3)) == [1, 2, 3]
    assert numbers(feed, BatchLimits(size_bytes=1)) == []  # 1 to 3 are in hand
    other = RunFeed()
    for number in range(1, 4):
        other.offer(item(number))
    assert numbers(other, BatchLimits(size_bytes=1)) == [1]


def test_a_hole_is_wanted_once_the_log_has_it() -> None:
    feed = RunFeed()
    feed.offer(item(4))
    assert feed.wanted(0.0) == []
    feed.stored(SOURCE, IdRanges([(1, 2), (4, 4)]))
    assert feed.wanted(0.0) == [(SOURCE, 1, 2)]
    feed.stored(SOURCE, IdRanges([(1, 4)]))
    assert feed.wanted(0.0) == [(SOURCE, 1, 3)]


def test_a_tail_is_wanted_only_after_it_had_time_to_come() -> None:
    feed = RunFeed()
    feed.stored(SOURCE, IdRanges([(1, 2)]))
    assert feed.wanted(10.0) == []
    assert feed.wanted(10.0 + TAIL_GRACE_SECONDS) == [(SOURCE, 1, 2)]
    feed.offer(item(1))
    assert feed.wanted(20.0) == []


def test_what_is_in_hand_is_not_wanted() -> None:
    feed = RunFeed()
    feed.offer(item(1))
    feed.take(LIMITS)
    feed.stored(SOURCE, IdRanges([(1, 1)]))
    feed.wanted(0.0)
    assert feed.wanted(100.0) == []


def test_a_delivery_is_let_go_only_when_it_waited_and_the_log_has_it() -> None:
    feed, link = RunFeed(), FakeLink()
    first, second = link.deliver(), link.deliver()
    feed.offer(item(1, first, since=0.0))
    feed.offer(item(2, second, since=4.0))
    assert feed.let_go(10.0, 5.0) == []
    feed.stored(SOURCE, IdRanges([(1, 2)]))
    assert feed.let_go(5.0, 5.0) == [first]
    assert feed.let_go(9.0, 5.0) == [second]
    assert feed.held() == 0
    # From now on the log is where it comes from, at once.
    assert feed.wanted(9.0) == [(SOURCE, 1, 2)]
    assert not feed.is_quiet()


def test_what_is_let_go_while_it_is_written_is_not_acknowledged_twice() -> None:
    feed, link = RunFeed(), FakeLink()
    delivery = link.deliver()
    feed.offer(item(1, delivery))
    batch = feed.take(LIMITS)
    feed.stored(SOURCE, IdRanges([(1, 1)]))
    assert feed.let_go(10.0, 5.0) == [delivery]
    feed.marks.add_applied(SOURCE, 1)
    assert feed.settle(batch) == []


def test_lost_ids_are_passed_over() -> None:
    feed = RunFeed()
    feed.offer(item(1))
    feed.offer(item(5))
    feed.stored(SOURCE, IdRanges([(1, 5)]), IdRanges([(2, 4)]))
    assert numbers(feed) == [1]
    feed.marks.add_applied(SOURCE, 1)
    assert feed.wanted(0.0) == []
    assert numbers(feed) == [5]


def test_an_event_that_came_after_it_was_given_up_as_lost_is_written() -> None:
    feed, link = RunFeed(), FakeLink()
    delivery = link.deliver()
    feed.stored(SOURCE, IdRanges([(1, 3)]), IdRanges([(1, 3)]))
    feed.offer(item(2, delivery))
    assert numbers(feed) == [2]
    # It is in hand: the loss must not mark it as written.
    feed.wanted(0.0)
    assert not feed.marks.is_applied(SOURCE, 2)


def test_sources_do_not_wait_for_each_other() -> None:
    feed = RunFeed()
    feed.offer(item(2))
    feed.offer(item(1, source=OTHER))
    assert [(taken.source, taken.number) for taken in feed.take(LIMITS)] == [(OTHER, 1)]
    assert feed.gaps() == [(SOURCE, 1, 1)]


def test_every_range_that_is_missing_below_what_is_here_is_named() -> None:
    feed = RunFeed()
    assert feed.gaps() == []
    for number in (1, 2, 5, 6, 9, 12):
        feed.offer(item(number))
    assert feed.gaps() == [(SOURCE, 3, 4), (SOURCE, 7, 8), (SOURCE, 10, 11)]
    assert numbers(feed) == [1, 2]  # in hand
    assert feed.gaps() == [(SOURCE, 3, 4), (SOURCE, 7, 8), (SOURCE, 10, 11)]
    marks = Marks()
    marks.applied[SOURCE] = IdRanges([(1, 8)])
    feed.open(marks)
    assert feed.gaps() == [(SOURCE, 10, 11)]


def test_a_feed_is_quiet_when_it_has_all_that_the_log_has() -> None:
    feed = RunFeed()
    assert feed.is_quiet()
    feed.stored(SOURCE, IdRanges([(1, 2)]))
    assert not feed.is_quiet()
    assert feed.lag() == 2
    feed.offer(item(1))
    feed.offer(item(2))
    apply(feed)
    assert feed.is_quiet()
    assert feed.lag() == 0
