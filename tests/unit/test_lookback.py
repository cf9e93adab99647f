from __future__ import annotations

from bus.eventlog.log import CHANGED_MARGIN_SECONDS
from subscribers.worker.lookback import SAVE_SECONDS, LookBack


def test_a_shard_without_a_cursor_is_looked_at_from_the_start_of_the_group() -> None:
    look = LookBack(100.0)
    assert look.unknown([0, 1]) == [0, 1]
    look.begin(0, None)
    look.begin(1, 5000.0)
    assert look.unknown([0, 1]) == []
    assert look.start([0, 1]) == 100.0
    assert look.start([1]) == 5000.0


def test_a_cursor_from_before_the_start_does_not_count() -> None:
    look = LookBack(100.0)
    look.begin(0, 50.0)
    assert look.start([0]) == 100.0


def test_a_look_moves_on_to_the_newest_change_less_a_margin_and_never_back() -> None:
    look = LookBack(0.0)
    look.begin(0, None)
    look.looked([0], 1000.0)
    assert look.start([0]) == 1000.0 - CHANGED_MARGIN_SECONDS
    look.looked([0], 10.0)
    assert look.start([0]) == 1000.0 - CHANGED_MARGIN_SECONDS


def test_a_shard_gained_during_a_look_is_not_moved_on_by_it() -> None:
    look = LookBack(0.0)
    look.begin(0, None)
    looked_at = [0]
    look.begin(1, None)
    look.looked(looked_at, 1000.0)
    assert look.start([1]) == 0.0


def test_a_shard_lost_during_a_look_begins_anew() -> None:
    look = LookBack(0.0)
    look.begin(0, None)
    look.forget([0])
    look.looked([0], 1000.0)
    assert look.unknown([0]) == [0]


def test_a_cursor_is_kept_when_it_has_moved_on_by_some() -> None:
    look = LookBack(0.0)
    look.begin(0, 100.0)
    look.looked([0], 100.0 + CHANGED_MARGIN_SECONDS + SAVE_SECONDS - 1)
    assert look.to_save(0) is None
    look.looked([0], 100.0 + CHANGED_MARGIN_SECONDS + SAVE_SECONDS)
    assert look.to_save(0) == 100.0 + SAVE_SECONDS
    assert look.to_save(0) is None
    assert look.to_save(1) is None


def test_a_shard_that_begins_anew_while_cursors_are_read_is_looked_at_afterwards() -> None:
    look = LookBack(0.0)
    look.begin(0, 100.0)
    look.begin(1, 50.0)
    look.forget([1])
    assert look.start([0, 1]) == 100.0
    look.looked([0, 1], 1000.0)
    assert look.unknown([0, 1]) == [1]
