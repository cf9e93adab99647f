"""Two members that take a shard from each other: who stays away, and for how long."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from bus.group.contest import Contest, ContestPolicy, Contests

POLICY = ContestPolicy()
FIRST_MINUTE_SWAPS = 6
TWO_TRIES = 4


def contest() -> Contest:
    return Contest(POLICY, uniform=lambda: 0.0)


def take_and_lose(one: Contest, now: float, held_seconds: float) -> float:
    one.opened(now)
    return one.lost(now + held_seconds)


def test_the_first_loss_costs_no_more_than_any_lost_link() -> None:
    one = Contest(POLICY, uniform=lambda: 1.0)
    assert take_and_lose(one, 0.0, 1.0) <= 0.4
    assert not one.is_away(1.0, is_held=False)


def test_the_second_loss_in_a_row_costs_a_while_and_each_further_one_a_minute() -> None:
    one = contest()
    take_and_lose(one, 0.0, 100.0)
    take_and_lose(one, 100.5, 0.5)
    assert one.is_away(115.9, is_held=False)
    assert not one.is_away(116.0, is_held=False)
    for start in (116.0, 176.5):
        take_and_lose(one, start, 0.5)
        assert one.is_away(start + 60.4, is_held=False)
        assert not one.is_away(start + 60.5, is_held=False)


def test_a_session_that_stood_makes_the_next_loss_the_first_and_one_that_did_not_does_not() -> None:
    one = contest()
    assert take_and_lose(one, 0.0, 1.0) == take_and_lose(one, 2.0, 8.0)
    assert one.losses == 1
    assert take_and_lose(one, 20.0, 7.9) > take_and_lose(contest(), 0.0, 1.0)
    assert one.losses == 2


def test_a_session_that_another_is_heard_to_hold_is_left_to_it_until_it_lets_go() -> None:
    one = contest()
    take_and_lose(one, 0.0, 1.0)
    assert one.is_away(1.0, is_held=True)
    assert one.is_away(1000.0, is_held=True)
    assert not one.is_away(1000.1, is_held=False)
    assert one.losses == 0


def test_a_shard_that_was_not_lost_is_taken_whoever_holds_it() -> None:
    assert not contest().is_away(0.0, is_held=True)
    one = contest()
    take_and_lose(one, 0.0, 1.0)
    one.opened(1.2)
    assert not one.is_away(1.2, is_held=True)  # heartbeats lag: it is ours


def test_a_session_that_cannot_be_opened_is_no_loss() -> None:
    one = Contest(POLICY, uniform=lambda: 1.0)
    pauses = [one.failed() for _ in range(5)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 2.0
    assert one.losses == 0
    assert not one.is_away(0.0, is_held=True)


def test_a_member_that_appears_ends_all_contests_and_a_lost_link_forgets_them() -> None:
    all_of_them = Contests(POLICY)
    for shard in (0, 1):
        take_and_lose(all_of_them.of(shard), 0.0, 1.0)
        take_and_lose(all_of_them.of(shard), 1.5, 0.5)
    assert all_of_them.look({0, 1, 2}, 2.0, held=()) == {2}
    assert all_of_them.away == {0, 1}
    all_of_them.over()
    assert all_of_them.look({0, 1, 2}, 2.0, held=()) == {0, 1, 2}
    take_and_lose(all_of_them.of(0), 3.0, 0.5)
    assert all_of_them.look({0, 1}, 4.0, held={0}) == {1}
    all_of_them.clear()
    assert all_of_them.look({0, 1}, 4.0, held={0}) == {0, 1}


def test_the_contest_of_a_shard_that_goes_to_another_is_forgotten() -> None:
    all_of_them = Contests(POLICY)
    for _ in range(2):
        take_and_lose(all_of_them.of(0), 0.0, 1.0)
    assert all_of_them.look({1}, 2.0, held=()) == {1}
    assert all_of_them.look({0, 1}, 2.0, held=()) == {0, 1}


@dataclass
class Fight:
    """Members that all claim one shard, over a broker that gives it to whoever came last.

    Attributes:
        hears: Per member, those it hears.
        swaps: When the session went from one to another.
    """

    members: int
    hears: dict[int, set[int]]
    chance: random.Random
    connect_seconds: float
    interval_seconds: float = 1.0
    holder: int | None = None
    dead: set[int] = field(default_factory=set)
    swaps: list[float] = field(default_factory=list)
    taken_at: dict[int, float] = field(default_factory=dict)
    now: float = 0.0
    _due: list[tuple[float, int, int, str]] = field(default_factory=list)
    _number: int = 0

    def __post_init__(self) -> None:
        self.contests = [Contest(POLICY, self.chance.random) for _ in range(self.members)]
        for member in range(self.members):
            self._at(self.chance.uniform(0, 20), member, "try")

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.now, _, member, what = heapq.heappop(self._due)
            if member in self.dead:
                continue
            getattr(self, f"_{what}")(member)
        self.now = until

    def die(self) -> None:
        """The owner is killed."""
        assert self.holder is not None
        self.dead.add(self.holder)
        self.holder = None

    def between(self, start: float, end: float) -> int:
        return sum(start <= at < end for at in self.swaps)

    def _at(self, seconds: float, member: int, what: str) -> None:
        self._number += 1
        heapq.heappush(self._due, (self.now + seconds, self._number, member, what))

    def _try(self, member: int) -> None:
        # Heard, and old enough for a heartbeat to have arrived: it is sent at once on opening.
        is_held = (
            self.holder in self.hears[member] and self.now - self.taken_at[self.holder] >= 0.05
            if self.holder is not None
            else False
        )
        if self.contests[member].is_away(self.now, is_held=is_held):
            self._at(self.chance.uniform(0.01, self.interval_seconds), member, "try")
        else:
            self._at(self.chance.uniform(0.001, self.connect_seconds), member, "open")

    def _open(self, member: int) -> None:
        self.contests[member].opened(self.now)
        before, self.holder = self.holder, member
        self.taken_at[member] = self.now
        if before is None:
            return
        self.swaps.append(self.now)
        self._at(self.contests[before].lost(self.now), before, "try")


fights = st.builds(
    lambda seed, connect: (random.Random(seed), connect),
    st.integers(0, 2**32),
    # NATS leaves a client id that comes back within a second without an answer.
    st.sampled_from([0.01, 0.2, 4.5]),
)


@given(fights)
def test_two_that_do_not_hear_each_other_settle_and_try_once_a_minute(
    made: tuple[random.Random, float],
) -> None:
    fight = Fight(2, {0: set(), 1: set()}, *made)
    fight.run(1200.0)
    start = fight.swaps[0]
    assert fight.between(start, start + 60) <= FIRST_MINUTE_SWAPS
    for minute in range(1, 19):
        assert fight.between(start + 60 * minute, start + 60 * (minute + 1)) <= TWO_TRIES
    assert len(fight.swaps) <= FIRST_MINUTE_SWAPS + 2 * 20


@given(fights, st.booleans())
def test_where_one_hears_the_other_the_contest_ends_for_good(
    made: tuple[random.Random, float], first_hears: bool
) -> None:
    hears: dict[int, set[int]] = {0: set(), 1: set()}
    hears[0 if first_hears else 1] = {1 if first_hears else 0}
    fight = Fight(2, hears, *made)
    fight.run(3600.0)
    start = fight.swaps[0]
    assert len(fight.swaps) <= FIRST_MINUTE_SWAPS
    assert fight.between(start + 60, 3600.0) == 0
    # The deaf one has it: it would come back, and the other lets it be.
    assert fight.holder == (1 if first_hears else 0)


@given(fights, st.data())
def test_among_more_than_two_with_any_hearing_swaps_stay_rare(
    made: tuple[random.Random, float], data: st.DataObject
) -> None:
    members = data.draw(st.integers(3, 4))
    everyone = range(members)
    hears = {
        one: set(data.draw(st.sets(st.sampled_from([other for other in everyone if other != one]))))
        for one in everyone
    }
    fight = Fight(members, hears, *made)
    fight.run(400.0)
    start = fight.swaps[0]
    assert fight.between(start, start + 60) <= FIRST_MINUTE_SWAPS * members
    # A try costs its own swap and that of each it turns out.
    assert fight.between(340.0, 400.0) <= TWO_TRIES * members + members


@given(fights, st.booleans(), st.booleans())
def test_when_the_owner_dies_unheard_the_other_comes_within_its_longest_wait(
    made: tuple[random.Random, float], is_0_hearing: bool, is_1_hearing: bool
) -> None:
    fight = Fight(2, {0: {1} if is_0_hearing else set(), 1: {0} if is_1_hearing else set()}, *made)
    fight.run(200.0)
    fight.die()
    fight.run(200.0 + 60.0 * 1.2 + 3.0)
    assert fight.holder is not None
