"""The name of a source holds run, rank, incarnation and node, and gives them back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import EventError
from bus.source import Source, new_incarnation
from tests.fixtures.events import names

INCARNATION = "2-69559a00-7f3e9b21c4d5a6e0"


@given(names, st.integers(0, 10**9 - 1), st.integers(1, 999), names)
def test_any_source_comes_back_from_its_text(run: str, rank: int, attempt: int, node: str) -> None:
    source = Source(run, rank, new_incarnation(attempt, 1767225600.5), node)
    assert Source.parse(str(source)) == source
    assert source.attempt == attempt


def test_the_text_is_a_path_that_people_can_read() -> None:
    assert str(Source("r1", 0, INCARNATION, "node-0")) == f"/runs/r1/0/{INCARNATION}/node-0"
    assert Source.parse(f"/runs/r1/0/{INCARNATION}/node-0").attempt == 2


def test_no_two_lives_of_a_process_share_a_name() -> None:
    assert len({new_incarnation(1, 1767225600.0) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/runs/r1/0",
        f"runs/r1/0/{INCARNATION}/node-0",
        f"/runs/r1/-1/{INCARNATION}/node-0",
        f"/runs/r1/0x1/{INCARNATION}/node-0",
        f"/runs/r1/٣/{INCARNATION}/node-0",
        f"/runs/r1/0/{INCARNATION}/node-0/more",
        f"/runs/r1/0/{INCARNATION}/node-0\n",
        f"/runs/r1/0/{INCARNATION}/",
        f"/runs//0/{INCARNATION}/node-0",
        f"/runs/r+/0/{INCARNATION}/node-0",
        f"/runs/r1/0/{INCARNATION}/#",
        f"/runs/r1/0/{INCARNATION}/a b",
        "/runs/r1/0/0-69559a00-7f3e9b21c4d5a6e0/node-0",
        "/runs/r1/0/1-69559a00-7f3e/node-0",
        "/runs/r1/0/1-XYZ-7f3e9b21c4d5a6e0/node-0",
    ],
)
def test_a_text_that_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(EventError) as caught:
        Source.parse(text)
    assert caught.value.field == "source"


@pytest.mark.parametrize(("run", "node", "field"), [("", "n", "run"), ("r", "", "node")])
def test_an_empty_name_is_refused_and_named(run: str, node: str, field: str) -> None:
    with pytest.raises(EventError) as caught:
        str(Source(run, 0, INCARNATION, node))
    assert caught.value.field == field


def test_who_began_in_the_same_second_is_not_surely_older() -> None:
    source = Source("r1", 0, new_incarnation(1, 1000.9), "n")
    assert source.started_seconds == 1000
    assert not source.is_older_than(999.0)
    assert not source.is_older_than(1000.95)
    assert source.is_older_than(1001.0)


def test_a_time_of_any_size_can_be_compared() -> None:
    source = Source.parse(f"/runs/r/0/1-{'f' * 10_000}-7f3e9b21c4d5a6e0/n")
    assert not source.is_older_than(2e9)
