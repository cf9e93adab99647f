"""Events that wait for a token of their kind, and are overtaken."""

from __future__ import annotations

from typing import Any

import pytest

from bus import parked, sourcefeed
from bus.feed import RunFeed
from bus.idranges import IdRanges
from bus.item import Item
from bus.sinks import BatchLimits, Marks
from bus.sourcefeed import TAIL_GRACE_SECONDS
from tests.fixtures.roadparts import SOURCE, FakeLink, event_bytes, item, source_of

LIMITS = BatchLimits()
OTHER = source_of(rank=1)
NO_CHECKPOINTS = frozenset({"checkpoint"})


def checkpoint(number: int, link: FakeLink | None = None, **flags: Any) -> Item:
    blob = {"name": "last.pt", "size": 1, "sha256": "0" * 64}
    raw = event_bytes(number, "checkpoint", {"blob": blob, **flags}, dataref="file:///store/1")
    return Item(SOURCE, number, "checkpoint", raw, link.deliver() if link else None, 0.0)


def numbers(feed: RunFeed, *blocked: str) -> list[int]:
    return [taken.number for taken in feed.peek(LIMITS, frozenset(blocked))]


def write(feed: RunFeed, *blocked: str) -> list[int]:
    """Write a batch."""
    batch = feed.take(LIMITS, frozenset(blocked))
    for taken in batch:
        feed.marks.add_applied(taken.source, taken.number)
    feed.settle(batch)
    return [taken.number for taken in batch]


def parking(*, is_left: bool = False) -> RunFeed:
    """A feed that has written 1 and 3 and parked 2 and 4, which may be left to the log."""
    feed, link = RunFeed(), FakeLink()
    for one in (item(1), checkpoint(2, link), item(3), checkpoint(4, link)):
        feed.offer(one)
    feed.stored(SOURCE, IdRanges([(1, 4)]))
    assert write(feed, "checkpoint") == [1, 3]
    if is_left:
        assert len(feed.let_go(10.0, 5.0)) == 2
    return feed


def test_what_waits_for_its_kind_is_overtaken_by_others_only() -> None:
    feed = parking()
    for one in (item(5), checkpoint(6), item(7)):
        feed.offer(one)
    assert numbers(feed, "checkpoint") == [5, 7]
    assert numbers(feed) == [2, 4, 5, 7], "6 came without a delivery: it is left to the log"
    assert feed.parked_kinds() == {"checkpoint"}


def test_a_parked_event_that_is_not_here_holds_up_its_own_kind_and_no_other() -> None:
    feed = parking(is_left=True)
    feed.offer(item(5))
    feed.offer(checkpoint(6, FakeLink()))
    assert numbers(feed) == [5]
    assert feed.wanted_parked(NO_CHECKPOINTS) == []
    assert feed.wanted_parked(frozenset()) == [(SOURCE, 2, 6, "checkpoint")]
    for number in (2, 4):
        feed.offer(checkpoint(number))
    assert numbers(feed) == [2, 4, 5, 6]


def test_the_end_of_a_source_waits_for_what_is_parked_in_it_and_in_no_other() -> None:
    feed = parking(is_left=True)
    feed.offer(item(5, kind="run_finished"))
    feed.offer(item(1, kind="run_finished", source=OTHER))
    assert feed.is_ending()
    assert [one.source for one in feed.peek(LIMITS, NO_CHECKPOINTS)] == [OTHER]
    assert numbers(feed) == [1], "what is parked is not here yet"
    write(feed, "checkpoint")
    assert feed.is_held()
    for number in (2, 4):
        feed.offer(checkpoint(number))
    assert write(feed) == [2, 4, 5]
    assert feed.is_quiet()


def test_the_beginning_of_a_source_is_never_overtaken() -> None:
    feed = RunFeed()
    feed.offer(item(1, kind="run_started"))
    feed.offer(item(2))
    assert numbers(feed, "run_started") == []
    assert numbers(feed) == [1, 2]


def test_a_final_checkpoint_passes_those_that_wait() -> None:
    feed = parking()
    feed.offer(checkpoint(5, final=True))
    feed.offer(item(6, kind="run_finished"))
    assert numbers(feed, "checkpoint") == [5]
    broken = Item(SOURCE, 5, "checkpoint", b"{}", None, 0.0)
    assert parked.has_to_wait(broken, NO_CHECKPOINTS)


def test_parked_events_that_are_not_to_be_written_need_no_token() -> None:
    feed = parking()
    batch = feed.take(LIMITS, NO_CHECKPOINTS, {(SOURCE, 2), (OTHER, 4)})
    assert [taken.number for taken in batch] == [2]


def test_parked_deliveries_are_let_go_sooner_if_asked_and_come_from_the_log_again() -> None:
    feed = parking()
    assert feed.held() == 2
    assert len(feed.let_go(1.0, 5.0, 0.5)) == 2
    assert feed.held() == 0
    assert not feed.is_quiet()
    assert feed.lag() == 2
    assert feed.let_go_since() == 0.0
    assert feed.wanted(100.0) == [], "they are known, and wait"
    assert feed.has(SOURCE, 2)


def test_a_parked_delivery_that_the_log_has_not_is_kept() -> None:
    feed, link = RunFeed(), FakeLink()
    feed.offer(checkpoint(1, link))
    assert numbers(feed, "checkpoint") == []
    assert feed.let_go(1000.0, 5.0) == []
    assert numbers(feed) == [1]


def test_what_is_parked_and_comes_again_is_acknowledged_once() -> None:
    feed, link = parking(), FakeLink()
    delivery = link.deliver()
    again = Item(SOURCE, 2, "checkpoint", b"", delivery, 0.0)
    assert feed.offer(again) == delivery
    left = parking(is_left=True)
    assert left.offer(again) is None
    assert left.held() == 1


def test_a_batch_with_parked_events_that_broke_off_is_parked_again() -> None:
    feed = parking()
    feed.offer(item(5))
    batch = feed.take(LIMITS)
    feed.marks.add_applied(SOURCE, 2)
    assert len(feed.put_back(batch)) == 1
    assert numbers(feed, "checkpoint") == [5]
    assert numbers(feed) == [4, 5]


def test_marks_with_holes_are_gone_on_from_without_reading_what_lies_above() -> None:
    feed = RunFeed(Marks({SOURCE: IdRanges([(1, 10), (12, 20), (22, 50)])}))
    feed.stored(SOURCE, IdRanges([(1, 60)]))
    feed.wanted(0.0)
    assert feed.wanted(TAIL_GRACE_SECONDS) == [
        (SOURCE, n, m) for n, m in [(11, 11), (21, 21), (51, 60)]
    ]
    assert feed.lag() == 12
    assert not feed.is_quiet()
    for number in (11, 21):
        feed.offer(checkpoint(number))
    feed.offer(item(51))
    assert numbers(feed, "checkpoint") == [51]
    assert feed.gaps() == []


def test_nothing_passes_a_hole_before_it_is_known_what_it_is() -> None:
    feed = RunFeed(Marks({SOURCE: IdRanges([(1, 10), (12, 50)])}))
    feed.offer(item(51))
    assert numbers(feed, "checkpoint") == []
    assert feed.gaps() == [(SOURCE, 11, 11)]
    feed.offer(item(11))
    assert numbers(feed, "checkpoint") == [11, 51]


def test_only_so_many_ranges_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sourcefeed, "WANTED_IDS", 2)
    feed = RunFeed(Marks({SOURCE: IdRanges((n, n) for n in range(2, 20, 2))}))
    feed.stored(SOURCE, IdRanges([(1, 30)]))
    feed.wanted(0.0)
    assert feed.wanted(10.0) == [(SOURCE, 1, 1), (SOURCE, 3, 3)]


def test_marks_read_again_that_hold_less_or_more_are_gone_on_from() -> None:
    feed = parking()
    assert numbers(feed, "checkpoint") == []
    assert len(feed.open(Marks({SOURCE: IdRanges([(1, 2)])}))) == 1
    feed.wanted(0.0)
    # 3 was forgotten by the sink; 4 waits for its token still.
    assert feed.wanted(10.0) == [(SOURCE, 3, 4)]
    feed.offer(item(3))
    assert numbers(feed, "checkpoint") == [3]
    assert numbers(feed) == [3, 4]


def test_what_is_parked_above_an_event_does_not_pass_it_later() -> None:
    feed, link = RunFeed(), FakeLink()
    feed.offer(item(1, link.deliver()))
    feed.offer(checkpoint(2, link))
    assert numbers(feed, "checkpoint") == [1]
    feed.stored(SOURCE, IdRanges([(1, 1)]))
    feed.let_go(10.0, 5.0)
    assert numbers(feed) == [], "1 is to be read from the log first"
    feed.offer(item(1))
    assert [one.number for one in feed.peek(BatchLimits(events=1))] == [1]
    assert numbers(feed) == [1, 2]


def test_lost_ids_are_passed_over_and_parked_ones_among_them_are_not() -> None:
    feed = parking()
    feed.offer(item(8))
    feed.stored(SOURCE, IdRanges([(1, 8)]), IdRanges([(4, 7)]))
    assert numbers(feed, "checkpoint") == [8]
    assert not feed.marks.is_applied(SOURCE, 4)
    assert numbers(feed) == [2, 4, 8]


def test_a_long_backlog_of_a_kind_is_not_read_on_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = RunFeed()
    feed.stored(SOURCE, IdRanges([(1, 100)]))
    feed.wanted(0.0)
    assert feed.wanted(10.0) == [(SOURCE, 1, 100)]
    monkeypatch.setattr(sourcefeed, "READ_AHEAD_BYTES", 5 * len(checkpoint(1).raw))
    for number in range(1, 6):
        feed.offer(checkpoint(number))
    assert numbers(feed, "checkpoint") == []
    assert feed.parked() == [], "their bytes are in the log"
    assert feed.wanted(20.0) == []
    assert feed.wanted_parked(frozenset()) == [(SOURCE, 1, 5, "checkpoint")]


def test_a_letter_whose_kind_has_no_token_lets_others_go_first() -> None:
    feed = RunFeed(Marks({SOURCE: IdRanges([(1, 2)])}, {SOURCE: IdRanges([(1, 2)])}))
    for one in (checkpoint(1), item(2)):
        one.is_retry = True
        feed.offer(one)
    letter = feed.next_retry(NO_CHECKPOINTS)
    assert letter is not None
    assert letter.number == 2
    first = feed.next_retry()
    assert first is not None
    assert first.number == 1
