"""So many requests in any minute and any day."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from subscribers.hub.platform.windows import FREE, PRO, Plan, Window

START = 1_767_225_600.0


def test_the_plans_are_those_of_the_documentation() -> None:
    assert (FREE.per_minute, FREE.per_day) == (60, 1000)
    assert (PRO.per_minute, PRO.per_day) == (300, 50_000)


def fill(window: Window, now: float) -> int:
    count = 0
    while window.wait_seconds(now) == 0:
        window.take(now)
        count += 1
    return count


def test_all_of_a_limit_may_be_used_at_once_and_no_more() -> None:
    window = Window.minute(FREE)
    assert fill(window, START) == 60
    assert 60 < window.wait_seconds(START) <= 65
    assert window.wait_seconds(START + window.wait_seconds(START)) == 0


def test_a_day_is_over_when_its_first_quarter_of_an_hour_is() -> None:
    window = Window.day(FREE)
    assert fill(window, START) == 1000
    assert window.wait_seconds(START + 86_400 - 1) > 0
    assert fill(window, START + 86_400 + 900) == 1000


def test_a_clock_that_was_put_back_does_not_block_for_ever() -> None:
    window = Window.minute(Plan(1, 1))
    window.take(START + 10_000)
    assert window.wait_seconds(START) == 0
    assert window.used(START) == 0


@given(
    st.integers(1, 5),
    st.lists(st.floats(0, 40), min_size=1, max_size=60),
)
def test_no_window_ever_holds_more_than_the_limit(limit: int, pauses: list[float]) -> None:
    window = Window.minute(Plan(limit, 10**6))
    now = START
    times: list[float] = []
    for pause in pauses:
        now += pause
        now += window.wait_seconds(now)
        assert window.wait_seconds(now) == 0
        window.take(now)
        times.append(now)
    for at in times:
        assert sum(at - 60 < other <= at for other in times) <= limit


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40))
def test_a_wait_is_never_much_longer_than_it_has_to_be(pauses: list[float]) -> None:
    window = Window.minute(Plan(2, 10**6))
    now = START
    times: list[float] = []
    for pause in pauses:
        now += pause
        wait = window.wait_seconds(now)
        needed = times[-2] + 60 - now if len(times) >= 2 else 0.0
        assert wait <= max(needed, 0.0) + 5 + 1e-3
        now += wait
        window.take(now)
        times.append(now)
