"""A call that can wait gets a token only when no write needs it."""

from __future__ import annotations

import pytest

from bus.circuit import CircuitPolicy, Circuits
from bus.ratelimit import Rate, TokenBucket
from bus.turns import Turns

QUIET, WRITER = ("digits", "quiet"), ("digits", "writer")


@pytest.mark.parametrize(
    ("burst", "tokens", "is_taken"),
    [(4, 4, True), (4, 3.9, False), (4, 0, False), (1, 1, True), (1, 0.9, False)],
)
def test_a_token_is_taken_only_where_it_would_be_lost(
    burst: float, tokens: float, is_taken: bool
) -> None:
    bucket = TokenBucket(Rate(1e-9, burst), 0.0, tokens)
    assert bucket.take_spare(0.0) is is_taken
    assert not bucket.take_spare(0.0)


def test_calls_that_can_wait_get_what_writes_leave_over_and_no_more() -> None:
    bucket = TokenBucket(Rate(1.0, 10.0), 0.0, 10.0)
    spare = waited = 0
    for tenth in range(10_000):
        now = tenth / 10
        if tenth % 20 == 0:  # a write every two seconds: half of what there is
            waited += bucket.wait_seconds(now) > 0
            bucket.take(now)
        spare += bucket.take_spare(now)
    assert waited == 0
    assert spare == pytest.approx(500, abs=5)


def test_a_member_without_a_share_has_nothing_to_spare() -> None:
    assert not TokenBucket(Rate(1.0, 4.0), 0.0, 4.0, share=0.0).take_spare(100.0)


def test_without_a_limit_only_a_pause_and_a_circuit_hold_it_up() -> None:
    turns = Turns()
    assert turns.spare(QUIET, 0.0)
    turns.pause(30.0, 0.0)
    assert not turns.spare(QUIET, 29.9)
    assert turns.spare(QUIET, 30.0)


def test_an_open_circuit_of_another_project_is_nothing_to_it() -> None:
    circuits = Circuits(CircuitPolicy(failures=2, callers=2), uniform=lambda: 1.0)
    turns = Turns(circuits)
    for run in ("a", "b"):
        turns.ask(("bad", run), 0, 0.0)
        turns.due(0.0)
        circuits.fail(("bad", run), "403", 0.0)
    turns.ask(("bad", "c"), 0, 0.0)
    assert turns.due(0.0) == []
    assert turns.spare(QUIET, 0.0)
    assert not turns.spare(("bad", "quiet"), 0.0)
    # When it is time to try again and no write wants to, it may; it decides nothing.
    assert turns.spare(("bad", "quiet"), 60.0)
    assert circuits.wait_seconds("bad", 60.0) == 0.0
    (probe,) = turns.due(60.0)
    assert probe.run == ("bad", "c")
    assert not turns.spare(("bad", "quiet"), 60.0)


def test_who_waits_for_a_token_gets_the_next() -> None:
    turns = Turns.limited(Rate(1.0, 1.0), 0.0)
    assert turns.bucket is not None
    turns.bucket.set_share(1.0, 0.0)
    turn = turns.ask(WRITER, 3, 0.5)
    assert turns.due(0.5) == []
    assert not turns.spare(QUIET, 0.5)
    assert turns.due(1.0) == [turn]
    assert not turns.spare(QUIET, 1.0)
    assert turns.spare(QUIET, 2.0)
