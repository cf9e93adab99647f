"""When each run is due to be kept alive."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bus.ratelimit import RunKey
from subscribers.worker.keepalive import TICK_SECONDS, Schedule


def keys(number: int) -> list[RunKey]:
    return [("digits", f"r{n}") for n in range(number)]


def play(schedule: Schedule, start: float, seconds: float, step: float) -> list[tuple[float, str]]:
    """When each run is begun, by somebody who looks every ``step`` and has no limits."""
    begun = []
    now = start
    while now < start + seconds:
        for run in schedule.due(now, 1000):
            if schedule.may_begin(now):
                schedule.begun(run, now)
                begun.append((now, run[1]))
        now += step
    return begun


@given(st.integers(1, 60), st.floats(1.0, 600.0), st.floats(0.0, 1e6))
def test_every_run_has_its_turn_in_each_interval_and_never_in_a_burst(
    runs: int, interval: float, start: float
) -> None:
    schedule = Schedule(interval)
    schedule.follow(keys(runs), start)
    step = min(interval / 100, TICK_SECONDS)
    begun = play(schedule, start, 4 * interval, step)
    slack = 3 * step + 1e-6
    for _, name in keys(runs):
        times = [at for at, run in begun if run == name]
        # The first ones wait for the pace at most: a quarter of the interval.
        assert times[0] - start <= interval / 4 + slack
        assert all(later - at <= interval * 1.25 + slack for at, later in pairwise(times))
        assert start + 4 * interval - times[-1] <= interval * 1.25 + slack
    per_second = 4 * runs / interval
    for first, (at, _) in enumerate(begun):
        last = min(first + 10, len(begun) - 1)
        assert last - first <= per_second * (begun[last][0] - at + 1.0 + step) + 1


def test_calls_are_spread_over_the_interval_once_all_have_had_their_first_turn() -> None:
    schedule = Schedule(100.0)
    schedule.follow(keys(400), 0.0)
    begun = play(schedule, 0.0, 500.0, 0.1)
    assert begun[0][0] == 0.0
    in_tenths = Counter(int(at // 10) for at, _ in begun if at >= 200)
    assert len(in_tenths) == 30
    assert max(in_tenths.values()) < 70


def test_a_run_that_ended_is_due_no_more_and_one_that_returns_is_due_at_once() -> None:
    schedule = Schedule(100.0)
    schedule.follow(keys(2), 0.0)
    for run in schedule.due(0.0, 10):
        schedule.begun(run, 0.0)
    schedule.follow(keys(1), 1.0)
    assert {run for _, run in play(schedule, 100.0, 100.0, 1.0)} == {"r0"}
    schedule.follow(keys(2), 250.0)
    assert ("digits", "r1") in schedule.due(250.0, 10)
    schedule.drop(lambda run: True)
    assert (len(schedule), schedule.due(1000.0, 10)) == (0, [])


def test_one_that_cannot_have_its_turn_lets_the_others_go_first() -> None:
    schedule = Schedule(100.0)
    schedule.follow(keys(3), 0.0)
    schedule.postpone(("digits", "r0"))
    schedule.postpone(("digits", "gone"))
    assert [run for _, run in schedule.due(0.0, 2)] == ["r1", "r2"]
    assert schedule.due(0.0, 10)[-1] == ("digits", "r0")
