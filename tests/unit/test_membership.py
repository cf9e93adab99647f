"""Who is in the group, as one member sees it."""

from __future__ import annotations

from bus.group.membership import Membership

ALL = frozenset(range(4))


def joined(me: str = "a", now: float = 0.0) -> Membership:
    """A member that has listened and claimed."""
    member = Membership(me, 4)
    member.link_up(now)
    assert member.owned(now + 3.0)
    return member


def test_nothing_is_claimed_before_three_heartbeats_were_listened_for() -> None:
    member = Membership("a", 4)
    assert member.owned(0.0) == frozenset()
    member.link_up(0.0)
    assert member.owned(2.9) == frozenset()
    assert member.owned(3.0) == ALL


def test_two_members_share_the_shards() -> None:
    a, b = joined("a"), joined("b")
    a.heard("b", 4, 3.0)
    b.heard("a", 4, 3.0)
    assert a.owned(5.0) | b.owned(5.0) == ALL
    assert len(a.owned(5.0)) == len(b.owned(5.0)) == 2


def test_a_silent_member_is_gone_after_three_heartbeats() -> None:
    a = joined()
    a.heard("b", 4, 3.0)
    assert a.members(6.0) == ["a", "b"]
    assert a.members(6.1) == ["a"]
    assert a.owned(6.1) == ALL


def test_a_member_that_says_goodbye_is_gone_at_once() -> None:
    a = joined()
    a.heard("b", 4, 3.0)
    a.left("b")
    assert a.owned(3.0) == ALL


def test_its_own_heartbeat_does_not_count() -> None:
    a = joined()
    a.heard("a", 4, 3.0)
    assert a.members(3.0) == ["a"]


def test_a_member_whose_link_is_lost_owns_nothing() -> None:
    a = joined()
    a.link_down()
    assert a.owned(10.0) == frozenset()


def test_after_its_link_returns_it_goes_on_with_the_members_it_knew() -> None:
    a = joined()
    a.heard("b", 4, 3.0)
    before = a.owned(5.0)
    a.link_down()
    a.link_up(60.0)
    assert a.owned(60.0) == before
    # "b" is given three heartbeats to be heard again.
    assert a.owned(63.0) == before
    assert a.owned(63.1) == ALL


def test_a_newcomer_with_another_number_of_shards_is_refused() -> None:
    a = Membership("a", 4)
    a.link_up(0.0)
    a.heard("b", 8, 1.0)
    assert a.conflict(1.0) == ("b", 8)
    assert a.owned(3.0) == frozenset()


def test_a_group_at_work_is_not_stopped_by_a_newcomer_with_another_number_of_shards() -> None:
    a = joined()
    a.heard("b", 8, 5.0)
    assert a.conflict(5.0) is None
    assert a.owned(5.0) == ALL
    assert a.members(5.0) == ["a"]


def test_who_comes_back_to_a_group_that_was_started_anew_gives_way() -> None:
    a = joined()
    a.link_down()
    a.link_up(100.0)
    a.heard("newcomer", 8, 100.5, holds=[])
    assert a.conflict(100.5) is None
    a.heard("owner", 8, 101.0, holds=[3])
    assert a.conflict(101.0) == ("owner", 8)
    assert a.owned(101.0) == frozenset()


def test_a_stranger_that_is_gone_is_no_conflict() -> None:
    a = Membership("a", 4)
    a.link_up(0.0)
    a.heard("b", 8, 0.5)
    a.heard("c", 8, 1.0)
    a.left("c")
    assert a.conflict(3.6) is None
    assert a.owned(3.6) == ALL


def test_a_newcomer_counts_after_a_heartbeat_and_a_half() -> None:
    a = Membership("a", 4)
    a.link_up(0.0)
    a.heard("b", 4, 10.0)
    assert a.owned(10.0) == frozenset(range(4))
    a.heard("b", 4, 11.0)
    assert a.owned(11.4, range(4)) == frozenset(range(4))
    assert len(a.owned(11.5, range(4))) == 2


def test_a_member_that_holds_shards_counts_at_once() -> None:
    a = Membership("a", 4)
    a.link_up(0.0)
    a.heard("b", 4, 10.0, holds=[0, 1])
    assert a.owned(10.0, [2, 3]) == {2, 3}


def test_one_that_comes_and_goes_moves_nothing() -> None:
    a = Membership("a", 4)
    a.link_up(0.0)
    for start in (10.0, 20.0, 30.0):
        a.heard("b", 4, start)
        assert a.owned(start + 1.0, range(4)) == frozenset(range(4))
        a.left("b")


def test_what_the_others_hold_is_known_as_long_as_they_are_heard() -> None:
    a = joined()
    assert a.held_by_others(3.0) == frozenset()
    a.heard("b", 4, 3.0, holds=[1])
    a.heard("c", 4, 4.0, holds=[1, 2])
    assert a.held_by_others(4.0) == {1, 2}
    a.heard("c", 4, 5.0, holds=[2])
    a.heard("stranger", 8, 5.0, holds=[7])
    assert a.held_by_others(5.0) == {1, 2}
    assert a.held_by_others(6.1) == {2}  # "b" is silent
    a.left("c")
    assert a.held_by_others(6.1) == frozenset()
