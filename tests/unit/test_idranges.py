"""Id ranges behave as a set of integers does, whatever is done to them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bus.errors import EventError
from bus.idranges import IdRanges

_SMALL = st.integers(1, 60)


class AgainstASet(RuleBasedStateMachine):
    """Does the same to a set of integers and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges = IdRanges()
        self.ids: set[int] = set()

    @rule(first=_SMALL, length=st.integers(1, 8))
    def add(self, first: int, length: int) -> None:
        self.ranges.add(first, first + length - 1)
        self.ids.update(range(first, first + length))

    @rule(number=_SMALL)
    def add_one(self, number: int) -> None:
        self.ranges.add(number)
        self.ids.add(number)

    @rule(others=st.sets(_SMALL, max_size=5))
    def update(self, others: set[int]) -> None:
        self.ranges.update(IdRanges((one, one) for one in others))
        self.ids |= others

    @rule()
    def write_and_read(self) -> None:
        self.ranges = IdRanges.parse(str(self.ranges))

    @rule(number=_SMALL)
    def change_a_copy(self, number: int) -> None:
        self.ranges.copy().add(number)

    @rule(first=_SMALL, last=_SMALL)
    def ask_for_gaps(self, first: int, last: int) -> None:
        missing = {n for a, b in self.ranges.gaps(last, first) for n in range(a, b + 1)}
        assert missing == set(range(first, last + 1)) - self.ids

    @rule(number=_SMALL)
    def ask_for_the_next_missing(self, number: int) -> None:
        assert self.ranges.next_missing(number) == min(set(range(number, 99)) - self.ids)

    @invariant()
    def holds_the_same(self) -> None:
        assert {n for a, b in self.ranges for n in range(a, b + 1)} == self.ids
        assert len(self.ranges) == len(self.ids)
        assert bool(self.ranges) == bool(self.ids)
        assert self.ranges.top == max(self.ids, default=0)
        assert [n in self.ranges for n in range(70)] == [n in self.ids for n in range(70)]

    @invariant()
    def the_contiguous_part_ends_before_the_first_hole(self) -> None:
        assert self.ranges.contiguous == next(n for n in range(70) if n + 1 not in self.ids)

    @invariant()
    def ranges_neither_overlap_nor_touch(self) -> None:
        pairs = list(self.ranges)
        assert all(later[0] > earlier[1] + 1 for earlier, later in pairwise(pairs))


TestAgainstASet = AgainstASet.TestCase


@given(st.lists(st.tuples(_SMALL, st.integers(0, 5))))
def test_the_order_of_adding_does_not_matter(pairs: list[tuple[int, int]]) -> None:
    ranges = [(first, first + more) for first, more in pairs]
    assert IdRanges(ranges) == IdRanges(reversed(ranges))


def test_neighbours_are_joined() -> None:
    assert str(IdRanges([(1, 3), (5, 6), (4, 4)])) == "1-6"


def test_the_text_form_is_short() -> None:
    assert str(IdRanges([(1, 500), (502, 502), (510, 600)])) == "1-500,502,510-600"
    assert str(IdRanges()) == ""
    assert repr(IdRanges([(1, 2)])) == "IdRanges('1-2')"


def test_millions_of_ids_are_one_range() -> None:
    ranges = IdRanges([(1, 10**9)])
    assert len(ranges) == 10**9
    assert ranges.gaps() == []


@pytest.mark.parametrize(
    "text", ["0", "-1", "5-3", "a", "1-b", "1-2-3", "1.5", "9" * 5000, "0-4", "--", "1;2"]
)
def test_a_text_that_is_no_list_of_ranges_is_refused(text: str) -> None:
    with pytest.raises(EventError) as caught:
        IdRanges.parse(text)
    assert caught.value.field == "ranges"


@pytest.mark.parametrize(("first", "last"), [(0, 1), (-1, 5), (5, 4)])
def test_a_range_that_is_none_is_not_added(first: int, last: int) -> None:
    ranges = IdRanges([(2, 3)])
    with pytest.raises(ValueError, match="no range of ids"):
        ranges.add(first, last)
    assert ranges == IdRanges([(2, 3)])


def test_it_is_equal_to_nothing_else() -> None:
    assert IdRanges([(1, 2)]) != {1, 2}
    with pytest.raises(TypeError):
        hash(IdRanges())
