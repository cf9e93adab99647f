"""When a run has ended."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import EventError
from bus.kinds import RunStatus
from bus.lifecycle import Outcome, RunLife

Report = Callable[[RunLife], None]

_SEVERITY = ["completed", "failed", "killed"]

ranks = st.integers(0, 4)
attempts = st.integers(1, 3)
statuses: st.SearchStrategy[RunStatus] = st.sampled_from(["completed", "failed", "killed"])
times = st.floats(0, 4e9)

starts = st.tuples(st.just("start"), ranks, attempts, st.integers(1, 5), st.just(0.0))
finishes = st.tuples(st.just("finish"), ranks, attempts, statuses, times)
reports = st.lists(starts | finishes, max_size=12)


def live(items: list[tuple[str, int, int, int | RunStatus, float]]) -> RunLife:
    life = RunLife()
    for what, rank, attempt, value, end in items:
        if what == "start":
            assert isinstance(value, int)
            life.start(rank, attempt, value)
        else:
            assert not isinstance(value, int)
            life.finish(rank, attempt, value, end)
    return life


def test_a_run_of_one_rank_ends_with_it() -> None:
    life = RunLife()
    assert life.outcome() is None
    life.start(0, 1, 1)
    assert life.outcome() is None
    life.finish(0, 1, "completed", 10.5)
    assert life.outcome() == Outcome("completed", 10.5)


def test_a_run_ends_when_every_rank_of_its_world_has_finished_at_the_latest_end() -> None:
    life = RunLife()
    life.start(0, 1, 2)
    life.finish(0, 1, "completed", 20.0)
    assert life.outcome() is None
    life.start(1, 1, 2)
    assert life.outcome() is None
    life.finish(1, 1, "completed", 10.0)
    assert life.outcome() == Outcome("completed", 20.0)


@pytest.mark.parametrize(
    ("first", "second", "worst"),
    [
        ("completed", "failed", "failed"),
        ("completed", "killed", "killed"),
        ("failed", "killed", "killed"),
    ],
)
def test_the_worst_status_of_the_ranks_wins(
    first: RunStatus, second: RunStatus, worst: RunStatus
) -> None:
    life = RunLife()
    life.start(0, 1, 2)
    life.finish(0, 1, first, 1.0)
    life.finish(1, 1, second, 1.0)
    assert life.outcome() == Outcome(worst, 1.0)


def test_a_higher_attempt_reopens_the_run_and_replaces_the_earlier_end() -> None:
    life = RunLife()
    life.start(0, 1, 1)
    life.finish(0, 1, "killed", 10.0)
    assert life.outcome() == Outcome("killed", 10.0)
    life.start(0, 2, 1)
    assert life.outcome() is None
    life.finish(0, 2, "completed", 20.0)
    assert life.outcome() == Outcome("completed", 20.0)


def test_a_late_start_of_the_attempt_that_ended_does_not_reopen_the_run() -> None:
    life = RunLife()
    life.finish(0, 1, "completed", 10.0)
    life.start(0, 1, 1)
    assert life.outcome() == Outcome("completed", 10.0)


def test_a_node_that_returns_is_believed_over_those_who_took_it_for_dead() -> None:
    life = RunLife()
    life.start(0, 1, 1)
    life.finish(0, 1, "killed", 30.0)
    life.finish(0, 1, "completed", 20.0)
    assert life.outcome() == Outcome("completed", 20.0)


def test_a_run_that_shrank_does_not_wait_for_the_ranks_it_lost() -> None:
    life = RunLife()
    for rank in range(3):
        life.start(rank, 1, 3)
    life.finish(2, 1, "killed", 5.0)
    life.start(0, 2, 2)
    life.start(1, 2, 2)
    life.finish(0, 2, "completed", 9.0)
    life.finish(1, 2, "completed", 8.0)
    assert life.outcome() == Outcome("completed", 9.0)


def test_a_huge_world_named_by_one_event_costs_nothing() -> None:
    life = RunLife()
    life.start(0, 1, 10**12)
    life.finish(0, 1, "completed", 1.0)
    assert life.outcome() is None


@given(reports, st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing(items, random) -> None:  # type: ignore[no-untyped-def]  # the strategies say it
    mixed = items + items[:5]
    random.shuffle(mixed)
    assert live(mixed) == live(items)


@given(reports)
def test_the_outcome_follows_the_rules(items) -> None:  # type: ignore[no-untyped-def]  # the strategies say it
    life = live(items)
    outcome = life.outcome()
    size = life.world[1] if life.world else max(life.ranks, default=-1) + 1
    states = [life.ranks.get(rank) for rank in range(size)]
    for _, rank, attempt, _, _ in items:
        assert life.ranks[rank].attempt >= attempt
    ended = [state for state in states if state is not None and state.status is not None]
    if not states or len(ended) < size:
        assert outcome is None
    else:
        assert outcome is not None
        worst = max((str(state.status) for state in ended), key=_SEVERITY.index)
        assert outcome == Outcome(worst, max(state.end_seconds for state in ended))  # type: ignore[arg-type]  # from the list of statuses


@given(reports)
def test_the_text_form_holds_everything(items) -> None:  # type: ignore[no-untyped-def]  # the strategies say it
    life = live(items)
    assert RunLife.parse(str(life)) == life


def test_the_text_form_is_short() -> None:
    life = RunLife()
    assert str(life) == "1;w-"
    assert RunLife.parse("") == life
    life.start(0, 1, 2)
    life.start(1, 1, 2)
    life.finish(0, 1, "completed", 1767225600.5)
    assert str(life) == "1;w2@1;0:1c1767225600.5;1:1r"


@pytest.mark.parametrize(
    "text", ["2;w-", "1", "1;x", "1;w-;0:1", "1;w-;0:1c", "1;w-;0:1c--", "nonsense"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(EventError):
        RunLife.parse(text)


def test_a_copy_is_independent() -> None:
    life = RunLife()
    life.start(0, 1, 1)
    twin = life.copy()
    twin.finish(0, 1, "failed", 1.0)
    assert life.outcome() is None


def test_a_lost_node_ends_its_rank_as_killed_and_its_return_reopens_the_run() -> None:
    life = RunLife()
    life.start(0, 1, 1)
    life.see_loss(0, 1, 1, 50.0)
    assert life.outcome() == Outcome("killed", 50.0)
    life.see_loss(0, 1, 2, 60.0)
    assert life.outcome() is None
    life.see_loss(0, 1, 1, 50.0)
    assert life.outcome() is None
    life.finish(0, 1, "completed", 70.0)
    assert life.outcome() == Outcome("completed", 70.0)
    assert RunLife.parse(str(life)) == life


def test_the_word_about_a_lost_node_does_not_touch_a_later_attempt() -> None:
    life = RunLife()
    life.start(0, 1, 1)
    life.start(0, 2, 1)
    life.see_loss(0, 1, 1, 50.0)
    assert life.outcome() is None
    life.finish(0, 2, "completed", 70.0)
    assert life.outcome() == Outcome("completed", 70.0)


def test_a_run_that_shrank_ends_without_the_ranks_of_the_lost_node() -> None:
    life = RunLife()
    for rank in range(4):
        life.start(rank, 1, 4)
    life.see_loss(2, 1, 1, 50.0)
    life.see_loss(3, 1, 1, 50.0)
    for rank in range(2):
        life.start(rank, 2, 2)
        life.finish(rank, 2, "completed", 90.0)
    assert life.outcome() == Outcome("completed", 90.0)
