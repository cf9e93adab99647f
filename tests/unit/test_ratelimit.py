"""Token buckets and turns on a virtual clock: never above the limit, and nobody starves."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.errors import ConfigError
from bus.kinds import Blob, Checkpoint, Tags
from bus.ratelimit import UNLIMITED, Rate, RateLimits, RunBuckets, TokenBucket, is_unlimited
from bus.turns import HANDICAP_SECONDS, LAST_RANK, Turns, rank_of

RUN = ("digits", "r1")
EPSILON = 1e-3

rates = st.builds(Rate, st.floats(0.01, 100.0), st.floats(1.0, 50.0))
pauses = st.lists(st.floats(0.0, 30.0), max_size=60)


def assert_never_above(taken: list[float], rate: float, burst: float) -> None:
    """In every stretch of time between two takings, both included."""
    least = math.inf
    for number, at in enumerate(taken):
        # Of all stretches that end here, the one with the most above the rate.
        above = number - rate * at
        least = min(least, above)
        assert above - least + 1 <= burst + EPSILON


@pytest.mark.parametrize(
    ("text", "per_second", "burst"),
    [
        ("20/s", 20.0, 20.0),
        ("60/min", 1.0, 1.0),
        ("4/hour", 4 / 3600, 1.0),
        ("1000/day", 1000 / 86400, 1.0),
        (" 20/s burst 40 ", 20.0, 40.0),
        ("0.5 / s", 0.5, 1.0),
    ],
)
def test_a_rate_is_read(text: str, per_second: float, burst: float) -> None:
    rate = Rate.parse(text)
    assert rate.tokens_per_second == pytest.approx(per_second)
    assert rate.burst == burst


@pytest.mark.parametrize("text", ["", "20", "20/x", "/s", "-1/s", "20/s burst", "20/s 40", "fast"])
def test_what_is_no_rate_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ConfigError, match=r"use 20/s, 60/min.*burst 40"):
        Rate.parse(text)


@pytest.mark.parametrize("text", ["0/s", "20/s burst 0"])
def test_a_rate_that_lets_nothing_through_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Rate.parse(text)


def test_unlimited_is_a_rate() -> None:
    assert Rate.parse("unlimited") is UNLIMITED
    assert UNLIMITED.is_unlimited


def test_a_limit_for_a_kind_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="no kind 'checkpoints'"):
        RateLimits(kinds={"checkpoints": Rate(1, 1)})


def test_limits_that_say_nothing_take_what_the_sink_says() -> None:
    own = RateLimits(Rate(1, 1), Rate(2, 2), {"checkpoint": Rate(3, 3), "image": Rate(4, 4)})
    said = RateLimits(sink=UNLIMITED, kinds={"image": Rate(5, 5)})
    both = said.or_else(own)
    assert both == RateLimits(
        UNLIMITED, Rate(2, 2), {"checkpoint": Rate(3, 3), "image": Rate(5, 5)}
    )


@given(rates, pauses, st.floats(0.0, 100.0))
def test_a_bucket_is_never_above_its_limit_in_any_window(
    rate: Rate, pauses: list[float], tokens: float
) -> None:
    now = 1e6
    bucket = TokenBucket(rate, now, tokens)
    taken: list[float] = []
    for pause in pauses:
        now += pause
        now += bucket.wait_seconds(now)
        bucket.take(now)
        taken.append(now)
    assert_never_above(taken, rate.tokens_per_second, rate.burst)


@given(rates)
def test_a_bucket_that_is_always_asked_gives_its_whole_rate(rate: Rate) -> None:
    now = start = 50.0
    bucket = TokenBucket(rate, now)
    for _ in range(100):
        now += bucket.wait_seconds(now)
        bucket.take(now)
    assert rate.tokens_per_second * (now - start) == pytest.approx(100, rel=1e-3)


@settings(max_examples=200)
@given(
    st.floats(0.5, 50.0),
    st.integers(8, 40),
    st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 7), st.integers(0, 2)), max_size=80),
)
def test_a_group_is_never_above_its_limit_while_shards_move(
    per_second: float, burst: int, moves: list[tuple[float, int, int]]
) -> None:
    """Three members take whatever they get, and shards go from one to another."""
    now = 0.0
    rate = Rate(per_second, burst)
    owners = [0] * 8
    members = [TokenBucket(rate, now, share=0.0) for _ in range(3)]
    members[0].set_share(1.0, now)
    taken: list[float] = []
    for pause, shard, member in moves:
        now += pause
        for bucket in members:
            while bucket.wait_seconds(now) == 0:
                bucket.take(now)
                taken.append(now)
        before = owners[shard]
        owners[shard] = member
        for one in {before, member}:
            members[one].set_share(owners.count(one) / 8, now)
    assert_never_above(taken, per_second, burst)


def test_a_share_that_is_gained_begins_empty_and_one_given_up_is_gone() -> None:
    bucket = TokenBucket(Rate(8.0, 80.0), 0.0, share=0.0)
    assert bucket.wait_seconds(0.0) == math.inf
    bucket.set_share(0.5, 0.0)
    assert bucket.wait_seconds(0.0) == pytest.approx(0.25)
    bucket.set_share(0.25, 100.0)
    taken = 0
    while bucket.wait_seconds(100.0) == 0:
        bucket.take(100.0)
        taken += 1
    assert taken == 20
    bucket.set_share(0.0, 100.0)
    assert bucket.wait_seconds(1000.0) == math.inf


def test_a_share_of_less_than_one_token_still_comes_to_its_turn() -> None:
    bucket = TokenBucket(Rate(1.0, 1.0), 0.0, share=0.125)
    assert bucket.wait_seconds(0.0) == pytest.approx(8.0)
    bucket.take(8.0)
    assert bucket.wait_seconds(8.0) == pytest.approx(8.0)


def test_a_new_run_may_write_at_once_and_one_taken_over_may_not() -> None:
    buckets = RunBuckets(RateLimits(run=Rate.parse("4/hour")))
    other = ("digits", "r2")
    buckets.begin(RUN, 0.0, math.inf)
    buckets.begin(other, 0.0, 0.0)
    assert buckets.wait_seconds(RUN, 0.0) == 0
    assert buckets.wait_seconds(other, 0.0) == pytest.approx(900)
    buckets.take(RUN, 0.0)
    assert buckets.wait_seconds(RUN, 0.0) == pytest.approx(900)
    buckets.forget(899.0)
    assert buckets.wait_seconds(RUN, 899.0) == pytest.approx(1.0)
    buckets.forget(901.0)
    buckets.begin(RUN, 901.0, 901.0)
    assert buckets.wait_seconds(RUN, 901.0) == 0


def test_a_kind_has_tokens_of_its_own_in_each_run() -> None:
    limits = RateLimits(kinds={"checkpoint": Rate.parse("4/hour")})
    buckets = RunBuckets(limits)
    buckets.begin(RUN, 0.0, math.inf)
    buckets.take(RUN, 0.0, {"metrics", "checkpoint"})
    assert buckets.blocked(RUN, 1.0) == {"checkpoint"}
    assert buckets.wait_seconds(RUN, 1.0, {"metrics"}) == 0
    assert buckets.wait_seconds(RUN, 1.0, {"metrics", "checkpoint"}) == pytest.approx(899)
    assert buckets.blocked(RUN, 900.0) == frozenset()
    assert buckets.kind_wait_seconds(RUN, 1.0, {"metrics", "checkpoint"}) == pytest.approx(899)
    assert buckets.kind_wait_seconds(RUN, 1.0, {"metrics"}) == 0


def test_a_run_knows_whether_several_events_of_a_kind_could_go_one_by_one() -> None:
    limits = RateLimits(kinds={"checkpoint": Rate.parse("1/s burst 3")})
    buckets = RunBuckets(limits)
    buckets.begin(RUN, 0.0, math.inf)
    assert buckets.has_tokens(RUN, 0.0, "checkpoint", 3)
    assert not buckets.has_tokens(RUN, 0.0, "checkpoint", 4)
    assert buckets.has_tokens(RUN, 0.0, "metrics", 1000)


def test_only_the_final_checkpoint_is_not_held_to_the_limit_of_its_kind() -> None:
    blob = Blob("best.pt", 1, "0" * 64)
    assert is_unlimited(Checkpoint(blob, is_final=True))
    assert not is_unlimited(Checkpoint(blob, is_best=True))
    assert not is_unlimited(Tags({"final": "yes"}))


# -- turns


def limited(text: str) -> Turns:
    turns = Turns.limited(Rate.parse(text), 0.0)
    assert turns.bucket is not None
    turns.bucket.set_share(1.0, 0.0)
    return turns


def drain(turns: Turns, now: float = 0.0) -> list[tuple[float, str]]:
    """Give all turns that are waited for: when, and to which run."""
    given = []
    while turns.waiting:
        given += [(now, turn.run[1]) for turn in turns.due(now)]
        if turns.waiting:
            assert now < turns.retry_at() < math.inf
            now = turns.retry_at()
    return given


def test_turns_are_given_in_the_order_they_were_asked_for() -> None:
    turns = limited("1/s")
    for number in range(5):
        turns.ask(("digits", f"r{number}"), LAST_RANK, number / 100)
    assert [run for _, run in drain(turns)] == ["r0", "r1", "r2", "r3", "r4"]


def test_under_scarcity_lifecycle_goes_before_params_before_checkpoints_before_metrics() -> None:
    turns = limited("1/s")
    for kind in ("metrics", "checkpoint", "params", "run_finished"):
        turns.ask(("digits", kind), rank_of([kind]), 0.0)
    assert [run for _, run in drain(turns)] == ["run_finished", "params", "checkpoint", "metrics"]


def test_the_most_urgent_event_of_a_run_decides() -> None:
    assert rank_of(["metrics", "image", "params"]) == rank_of(["params"])
    assert rank_of([]) == LAST_RANK


def test_a_run_that_gets_something_urgent_to_say_moves_up() -> None:
    turns = limited("1/s")
    turns.ask(("digits", "r1"), LAST_RANK, 0.0)
    late = turns.ask(("digits", "r2"), LAST_RANK, 0.0)
    turns.hurry(late, 0)
    assert [run for _, run in drain(turns)] == ["r2", "r1"]


@given(
    st.lists(
        st.tuples(st.floats(0.0, 8.0), st.integers(0, LAST_RANK), st.integers(0, 3)),
        min_size=20,
        max_size=60,
    )
)
def test_nobody_is_overtaken_by_what_came_much_later(
    asked: list[tuple[float, int, int]],
) -> None:
    """A stream of urgent turns that is more than the rate delays none by more than its handicap."""
    turns = limited("12/min")
    now = 0.0
    asked_at: dict[str, float] = {}
    given: list[str] = []
    for number, (pause, rank, project) in enumerate(asked):
        now += pause
        asked_at[f"r{number}"] = now
        turns.ask((f"p{project}", f"r{number}"), rank, now)
        given += [turn.run[1] for turn in turns.due(now)]
    given += [run for _, run in drain(turns, now)]
    assert sorted(given) == sorted(asked_at)
    for position, run in enumerate(given):
        overtaken_by = [asked_at[other] for other in given[:position]]
        assert all(at <= asked_at[run] + LAST_RANK * HANDICAP_SECONDS for at in overtaken_by)


def test_a_pause_that_the_sink_asks_for_holds_for_all_runs_even_without_a_limit() -> None:
    turns = Turns()
    turns.pause(30.0, 0.0)
    turns.pause(5.0, 0.0)
    assert not turns.is_free(29.0)
    turns.ask(RUN, 0, 0.0)
    turns.ask(("other", "r2"), 0, 0.0)
    assert [at for at, _ in drain(turns)] == [30.0, 30.0]
    assert turns.is_free(30.0)


@pytest.mark.parametrize("asked", [None, math.nan, math.inf, -1.0, 0.0])
def test_a_pause_that_makes_no_sense_is_none(asked: float | None) -> None:
    turns = Turns()
    turns.pause(asked, 0.0)
    assert turns.is_free(0.0)


def test_a_pause_of_years_is_cut_to_an_hour() -> None:
    turns = Turns()
    turns.pause(1.7e9, 0.0)
    assert turns.is_free(3600.0)


def test_a_turn_that_is_withdrawn_or_given_back_costs_nobody_a_token() -> None:
    turns = limited("1/s")
    first, second = turns.ask(RUN, 0, 0.0), turns.ask(("digits", "r2"), 0, 0.0)
    turns.withdraw(first)
    assert turns.due(1.0) == [second]
    turns.give_back(second.run, 1.0)
    third = turns.ask(("digits", "r3"), 0, 1.0)
    assert turns.due(1.0) == [third]


def test_a_turn_knows_whether_it_waited_for_a_token() -> None:
    turns = limited("1/s")
    early = [turns.ask(("digits", f"r{n}"), 0, 1.0) for n in range(2)]
    assert turns.due(1.0) == early[:1]
    assert turns.due(2.0) == early[1:]
    assert [turn.is_limited for turn in early] == [False, True]


def test_turns_are_spread_by_the_rate() -> None:
    turns = limited("10/s burst 3")
    for number in range(30):
        turns.ask(("digits", f"r{number}"), 0, 10.0)
    times = [at for at, _ in drain(turns, 10.0)]
    assert times[:3] == [10.0, 10.0, 10.0]
    assert all(b - a == pytest.approx(0.1) for a, b in pairwise(times[2:]))
