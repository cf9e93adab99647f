"""Which member owns which shard."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from bus.group.assignment import assign

members = st.sets(st.text("abcdefgh-0123", min_size=1, max_size=6), min_size=1, max_size=9)
shard_counts = st.integers(1, 64)


@given(members, shard_counts)
def test_each_shard_has_one_owner_and_no_member_more_than_one_above_another(
    names: set[str], shards: int
) -> None:
    owned = assign(names, shards)
    assert set(owned) == names
    assert sorted(shard for taken in owned.values() for shard in taken) == list(range(shards))
    sizes = [len(taken) for taken in owned.values()]
    assert max(sizes) - min(sizes) <= 1


@given(st.permutations(["a", "b", "c", "d", "d"]), shard_counts)
def test_the_order_in_which_members_are_named_does_not_matter(
    names: list[str], shards: int
) -> None:
    assert assign(names, shards) == assign(["a", "b", "c", "d"], shards)


def test_without_members_nobody_owns_anything() -> None:
    assert assign([], 8) == {}


@given(members, st.text("xyz", min_size=1, max_size=3), shard_counts)
def test_a_join_moves_only_what_the_newcomer_gets(
    names: set[str], newcomer: str, shards: int
) -> None:
    before = assign(names, shards)
    after = assign({*names, newcomer}, shards, before)
    moved = sum(len(before[name] - after[name]) for name in names)
    assert moved == len(after[newcomer])
    assert moved <= -(-shards // (len(names) + 1))


@given(members, st.text("xyz", min_size=1, max_size=3), shard_counts)
def test_a_leave_moves_only_what_the_leaver_had(names: set[str], leaver: str, shards: int) -> None:
    before = assign({*names, leaver}, shards)
    after = assign(names, shards, before)
    assert all(before[name] <= after[name] for name in names)


@given(members, shard_counts, st.randoms(use_true_random=False))
def test_whatever_members_say_they_hold_the_result_is_fair_and_whole(
    names: set[str], shards: int, chance: random.Random
) -> None:
    held = {
        name: [chance.randrange(-2, shards + 2) for _ in range(chance.randrange(shards + 2))]
        for name in [*names, "gone"]
    }
    owned = assign(names, shards, held)
    assert sorted(shard for taken in owned.values() for shard in taken) == list(range(shards))
    sizes = [len(taken) for taken in owned.values()]
    assert max(sizes) - min(sizes) <= 1


@given(members, shard_counts, st.randoms(use_true_random=False))
def test_an_assignment_that_is_half_taken_up_stays_as_it_is(
    names: set[str], shards: int, chance: random.Random
) -> None:
    """Sessions open one after the other: heartbeats in between must not shuffle the rest."""
    whole = assign(names, shards)
    held = {name: [s for s in taken if chance.random() < 0.5] for name, taken in whole.items()}
    sizes = {name: len(taken) for name, taken in whole.items()}
    again = assign(names, shards, held)
    for name, taken in again.items():
        assert set(held[name]) <= taken or len(taken) < sizes[name]
    assert assign(names, shards, whole) == whole
