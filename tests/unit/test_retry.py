"""Retry policies: how long, how often."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import PermanentSinkError, RetryableSinkError
from bus.retry import RECONNECT, Backoff, RetryPolicy

uniforms = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 10**9), uniforms)
def test_a_wait_is_never_above_the_cap(attempt: int, uniform: float) -> None:
    policy = RetryPolicy(initial_seconds=0.2, cap_seconds=30.0)
    assert 0.0 <= policy.wait_seconds(attempt, None, uniform) <= 30.0


def test_the_bound_doubles_until_the_cap() -> None:
    policy = RetryPolicy(initial_seconds=1.0, cap_seconds=5.0)
    assert [policy.wait_seconds(n, None, 1.0) for n in (1, 2, 3, 4, 5)] == [1, 2, 4, 5, 5]


@given(st.floats(0, 1e6), st.integers(1, 50), uniforms)
def test_a_pause_that_was_asked_for_is_kept(asked: float, attempt: int, uniform: float) -> None:
    assert RetryPolicy().wait_seconds(attempt, asked, uniform) >= asked


@pytest.mark.parametrize("asked", [math.nan, math.inf, -math.inf, -5.0])
def test_nonsense_that_was_asked_for_is_not_heeded(asked: float) -> None:
    assert 0.0 <= RetryPolicy().wait_seconds(3, asked, 0.5) <= 30.0


async def test_a_call_is_repeated_until_it_works() -> None:
    waits: list[float] = []
    outcomes = [RetryableSinkError("down"), RetryableSinkError("slow down", 7.0), None]

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def call() -> str:
        error = outcomes.pop(0)
        if error is not None:
            raise error
        return "done"

    retrying = RetryPolicy(initial_seconds=1.0).retrying(sleep=sleep, uniform=lambda: 0.5)
    assert await retrying(call) == "done"
    assert waits == [0.5, 8.0]


async def test_a_permanent_error_is_not_repeated() -> None:
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise PermanentSinkError("never")

    with pytest.raises(PermanentSinkError):
        await RetryPolicy().retrying()(call)
    assert calls == 1


async def test_attempts_are_bounded_when_the_policy_says_so() -> None:
    calls = 0

    async def sleep(seconds: float) -> None:
        pass

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise RetryableSinkError("down")

    with pytest.raises(RetryableSinkError, match="down"):
        await RetryPolicy(attempts=3).retrying(sleep=sleep)(call)
    assert calls == 3


def test_a_backoff_grows_with_failures_and_begins_anew_after_a_success() -> None:
    backoff = Backoff(RECONNECT, uniform=lambda: 1.0)
    assert [backoff.next_seconds() for _ in range(6)] == [0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    backoff.reset()
    assert backoff.next_seconds() == 0.4


@given(uniforms)
def test_a_backoff_never_comes_down_to_nothing(uniform: float) -> None:
    assert Backoff(RECONNECT, uniform=lambda: uniform).next_seconds() >= 0.1
