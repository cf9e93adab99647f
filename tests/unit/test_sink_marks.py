"""Applied marks as named texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.idranges import IdRanges
from bus.sinks import Marks
from bus.source import Source
from subscribers.marks import join_text, marks_from_texts, marks_to_texts, split_text

sources = st.builds(
    lambda run, rank, node: str(Source(run, rank, "1-0-0123456789abcdef", node)),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.integers(0, 3),
    st.sampled_from(["n", "node.1", "ö"]),
)
ids = st.lists(st.integers(1, 10**6), min_size=1, max_size=30)


Contents = dict[str, tuple[list[int], list[int], list[int]]]


@given(st.dictionaries(sources, st.tuples(ids, ids | st.just([]), ids | st.just([])), max_size=4))
def test_marks_survive_as_tags(contents: Contents) -> None:
    marks = Marks()
    for source, (applied, dead, left_out) in contents.items():
        for number in applied:
            marks.add_applied(source, number)
        for number in dead:
            marks.add_dead(source, number)
        for number in left_out:
            marks.add_superseded(source, number)
    tags = marks_to_texts(marks)
    assert marks_from_texts({**tags, "other": "x", "trainbus.run_id": "r"}) == marks
    assert all(len(key) <= 250 and len(value) < 5000 for key, value in tags.items())


@given(st.text(max_size=20_000), st.text(max_size=20_000))
def test_a_text_that_was_longer_once_leaves_nothing_in_the_new_one(old: str, new: str) -> None:
    tags = {**split_text("k", old), **split_text("k", new)}
    assert join_text("k", tags) == new


def test_a_short_text_takes_one_tag() -> None:
    source = "/runs/r/0/1-0-0123456789abcdef/n"
    marks = Marks({source: IdRanges([(1, 500_000)])})
    ((key, value),) = marks_to_texts(marks).items()
    assert key.startswith("trainbus.marks.")
    assert value == f"1;{source};1-500000;"


def test_superseded_ids_follow_the_others() -> None:
    source = "/runs/r/0/1-0-0123456789abcdef/n"
    marks = Marks({source: IdRanges([(1, 9)])})
    marks.add_superseded(source, 4)
    ((_, value),) = marks_to_texts(marks).items()
    assert value == f"1;{source};1-9;;4"


@pytest.mark.parametrize(
    "damage", ["", "x", "1;", "2;a;1;", "1;/runs/x;1-2;", "1;a;b;c", "1;a;1;;2;3"]
)
def test_a_damaged_tag_counts_as_no_marks_and_spares_the_others(damage: str) -> None:
    good, bad = ("/runs/r/0/1-0-0123456789abcdef/n", "/runs/r/1/1-0-0123456789abcdef/n")
    marks = Marks({good: IdRanges([(1, 5)]), bad: IdRanges([(1, 9)])})
    tags = marks_to_texts(marks)
    (key,) = marks_to_texts(Marks({bad: IdRanges([(1, 9)])}))
    assert marks_from_texts({**tags, key: damage}) == Marks({good: IdRanges([(1, 5)])})


def test_a_part_that_is_gone_is_noticed() -> None:
    tags = split_text("k", "x" * 10_000)
    assert len(tags) == 3
    del tags["k.1"]
    assert join_text("k", tags) is None
    assert join_text("k", {}) is None
