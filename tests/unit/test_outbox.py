"""Which event a shipper sends, and when again."""

from __future__ import annotations

import time

import pytest

from bus.idranges import IdRanges
from publishers.shipper.outbox import (
    IDLE_GRACE_SECONDS,
    LAST_RESORT_SECONDS,
    OVERHEAD_BYTES,
    PROMPT_SENDS,
    RESENDS_AT_ONCE,
    Outbox,
)


def outbox(events: int) -> Outbox:
    box = Outbox()
    for number in range(1, events + 1):
        box.add(number, 100)
    return box


def send(box: Outbox, now: float | None = 0.0, may_be_new: bool = True) -> list[int]:
    """Publish all there is; acknowledged at ``now``, or not."""
    sent = []
    while (number := box.next_to_send(may_be_new)) is not None:
        box.sent(number)
        if now is not None:
            box.acked(number, now)
        sent.append(number)
    return sent


def ids(*ranges: tuple[int, int]) -> IdRanges:
    return IdRanges(ranges)


def test_events_are_sent_once_and_in_order() -> None:
    box = outbox(3)
    assert send(box) == [1, 2, 3]
    assert send(box) == []
    assert box.waiting == 3
    assert box.lowest == 1


def test_what_is_stored_is_forgotten() -> None:
    box = outbox(3)
    send(box)
    assert box.confirmed(ids((1, 2)), 1.0) == [1, 2]
    assert box.confirmed(ids((1, 2)), 1.0) == []
    assert (box.waiting, box.lowest) == (1, 3)
    box.confirmed(ids((1, 3)), 1.0)
    assert (box.waiting, box.lowest, box.published_bytes) == (0, None, 0)


def test_an_old_answer_after_a_new_one_changes_nothing() -> None:
    box = outbox(3)
    send(box)
    box.confirmed(ids((1, 3)), 1.0)
    assert box.confirmed(ids((1, 1)), 1.0) == []
    assert box.stored == ids((1, 3))


def test_ids_that_were_never_cut_are_not_believed() -> None:
    box = outbox(2)
    send(box)
    box.confirmed(ids((1, 10**17)), 1.0)
    box.add(3, 100)
    assert send(box) == [3]
    assert box.waiting == 1


def test_a_hole_is_sent_again_at_once_and_only_it() -> None:
    box = outbox(5)
    send(box)
    box.confirmed(ids((1, 1), (4, 4)), 1.0)
    assert send(box, 1.0) == [2, 3]
    # The next answer was on its way before they came: they are not sent a third time.
    box.confirmed(ids((1, 1), (4, 5)), 1.1)
    assert send(box, 1.1) == []


def test_a_hole_that_is_not_acknowledged_yet_is_left_alone() -> None:
    box = outbox(2)
    send(box, None)
    box.acked(2, 0.0)
    box.confirmed(ids((2, 2)), 1.0)
    assert send(box) == []


def test_what_was_sent_again_is_left_alone_until_it_is_acknowledged() -> None:
    box = outbox(3)
    send(box)
    box.confirmed(ids((3, 3)), 1.0)
    assert send(box, None) == [1, 2]
    box.shard_idle(100.0)
    box.add(4, 100)
    send(box, 100.0)
    box.confirmed(ids((3, 4)), 100.0)
    assert send(box) == []


def test_holes_come_before_new_events_lowest_first() -> None:
    box = outbox(4)
    send(box)
    box.add(5, 100)
    box.confirmed(ids((4, 4)), 1.0)
    assert send(box) == [1, 2, 3, 5]


def test_what_the_broker_did_not_acknowledge_is_sent_on_the_next_link() -> None:
    box = outbox(2 * RESENDS_AT_ONCE)
    send(box, None)
    box.acked(1, 0.0)
    box.link_lost()
    assert send(box) == list(range(2, 2 * RESENDS_AT_ONCE + 1))


def test_what_was_sent_again_and_lost_with_the_link_is_sent_once_more() -> None:
    box = outbox(2)
    send(box)
    box.confirmed(ids((2, 2)), 1.0)
    assert send(box, None) == [1]
    box.link_lost()
    assert send(box) == [1]


def test_a_new_session_of_the_log_gets_what_was_sent_before_it() -> None:
    box = outbox(3)
    send(box, 1.0)
    box.add(4, 100)
    send(box, 5.0)
    box.session_began(3.0)
    assert send(box) == [1, 2, 3]


def test_a_wiped_broker_is_answered_without_waiting_however_much_waits() -> None:
    count = 4 * RESENDS_AT_ONCE
    box = outbox(count)
    send(box, 0.0)
    box.session_began(1.0)
    stored: list[int] = []
    while sent := send(box, 2.0):
        assert len(sent) <= RESENDS_AT_ONCE
        stored += sent
        box.confirmed(IdRanges((n, n) for n in stored), 2.0)
    assert stored == list(range(1, count + 1))
    assert box.waiting == 0


def test_an_idle_shard_gets_what_was_acknowledged_a_while_ago() -> None:
    box = outbox(2)
    send(box, 10.0)
    box.shard_idle(10.0 + IDLE_GRACE_SECONDS)
    assert send(box) == []
    box.shard_idle(10.1 + IDLE_GRACE_SECONDS)
    assert send(box, 12.0) == [1, 2]


def test_an_idle_shard_that_never_takes_them_gets_them_ever_more_seldom() -> None:
    box = outbox(1)
    send(box, 0.0)
    times = []
    for tenth in range(36_000):
        now = tenth / 10
        box.shard_idle(now)
        if send(box, now):
            times.append(now)
    assert times[0] <= 1.2
    assert len(times) < 25


def test_without_a_log_group_nothing_is_sent_twice() -> None:
    box = outbox(10)
    send(box, 0.0)
    for second in range(3600):
        box.tick(float(second), is_log_alive=False)
    assert send(box) == []


def test_the_last_resort_comes_late_and_with_backoff() -> None:
    box = outbox(1)
    send(box, 0.0)
    times = []
    for second in range(3600):
        box.tick(float(second), is_log_alive=True)
        if send(box, float(second)):
            times.append(second)
    assert times[0] == LAST_RESORT_SECONDS + 1
    assert len(times) < 20


def test_an_event_the_log_never_takes_is_not_sent_with_every_answer() -> None:
    box = outbox(1)
    send(box, 0.0)
    sent = 0
    for number in range(2, 2000):
        now = number / 10
        box.add(number, 100)
        send(box, now)
        box.confirmed(ids((2, number)), now)
        sent += len(send(box, now))
    assert PROMPT_SENDS <= sent < 20
    assert box.lowest == 1


def test_an_event_that_can_no_longer_be_made_waits_for_the_logs_word() -> None:
    box = outbox(3)
    send(box)
    box.confirmed(ids((2, 3)), 1.0)
    assert box.next_to_send() == 1
    box.give_up(1)
    assert box.next_to_send() is None
    # The heartbeat says so: nothing below 2 will come.
    assert (box.waiting, box.lowest) == (1, 2)
    box.confirmed(ids((1, 3)), 1.0)
    assert (box.waiting, box.lowest) == (0, None)


def test_only_the_last_event_of_an_earlier_shipper_is_sent() -> None:
    box = Outbox(ids((1, 4)))
    box.recover([(5, 10), (6, 10), (7, 10)], 0.0)
    assert send(box) == [7]
    box.confirmed(ids((1, 5), (7, 7)), 1.0)
    assert send(box) == [6]


def test_ids_without_a_cut_are_asked_after() -> None:
    box = Outbox(ids((1, 4)))
    box.recover([(5, 10), (8, 10)], 0.0)
    assert send(box) == [8]
    assert (box.waiting, box.lowest) == (4, 5)
    box.confirmed(ids((1, 5), (7, 8)), 1.0)
    # 6 was lost; nothing is left that could be sent, and the heartbeat says so.
    assert (box.waiting, box.lowest) == (1, 7)


def test_what_is_sent_again_needs_no_room_and_makes_it() -> None:
    box = outbox(2)
    assert send(box, may_be_new=False) == []
    send(box)
    assert box.published_bytes == 2 * (100 + OVERHEAD_BYTES)
    box.add(3, 100)
    box.confirmed(ids((2, 2)), 1.0)
    assert box.published_bytes == 0
    assert send(box, may_be_new=False) == [1]


def test_an_event_stored_before_its_acknowledgement_needs_none() -> None:
    box = outbox(1)
    send(box, None)
    box.confirmed(ids((1, 1)), 1.0)
    box.acked(1, 1.0)
    box.link_lost()
    assert send(box) == []


@pytest.mark.parametrize("waiting", [20_000])
def test_the_work_per_message_does_not_grow_with_what_waits(waiting: int) -> None:
    box = outbox(waiting)
    send(box, 100.0)
    began = time.process_time()
    for number in range(1, 2001):
        box.confirmed(ids((1, number)), 100.0)
        box.tick(100.0, is_log_alive=True)
        box.shard_idle(100.0)
    # 6,000 calls; with a loop over all that wait it would take minutes.
    assert time.process_time() - began < 5.0
