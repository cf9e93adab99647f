"""Circuits: who opens them, who probes, and what a sink that is down gets to see."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from bus.circuit import Circuit, CircuitPolicy, Circuits
from bus.retry import SINK_RETRY, RetryPolicy
from bus.turns import Turns

POLICY = CircuitPolicy(probe=RetryPolicy(initial_seconds=1.0, cap_seconds=30.0))
A, B = ("digits", "a"), ("digits", "b")
OTHER = ("letters", "c")


def circuits() -> Circuits:
    return Circuits(POLICY, uniform=lambda: 1.0)


def failing(*runs: tuple[str, str], times: int = 5) -> Circuits:
    """Circuits after so many failures of each run, at 0."""
    made = circuits()
    for _ in range(times):
        for run in runs:
            made.fail(run, "down", 0.0)
    return made


def opened() -> Circuit:
    circuit = Circuit(POLICY, uniform=lambda: 1.0)
    for run in (A, B, A, B, A):
        circuit.fail(run, run[1], "down", 0.0)
    return circuit


def test_failures_in_a_row_of_several_callers_open_a_circuit() -> None:
    circuit = Circuit(POLICY)
    for number in range(5):
        assert circuit.state == "closed"
        assert circuit.wait_seconds(0.0) == 0
        circuit.fail(A, "ab"[number % 2], "down", 0.0)
    assert circuit.state == "open"
    assert circuit.last_error == "down"


def test_a_success_in_between_begins_the_count_anew() -> None:
    circuit = Circuit(POLICY)
    for _ in range(3):
        for run in (A, B, A, B):
            circuit.fail(run, run[1], "down", 0.0)
        circuit.succeed()
    assert circuit.state == "closed"


def test_one_failing_caller_alone_opens_nothing() -> None:
    circuit = Circuit(POLICY)
    for _ in range(1000):
        circuit.fail(A, "a", "down", 0.0)
    assert circuit.state == "closed"


def test_one_probe_at_a_time_backs_off_and_the_first_success_closes() -> None:
    circuit = opened()
    assert circuit.wait_seconds(0.0) == 1.0
    circuit.begin(A)
    assert circuit.state == "half-open"
    assert circuit.wait_seconds(1.0) == math.inf
    circuit.fail(A, "a", "still down", 1.0)
    assert circuit.state == "open"
    assert circuit.wait_seconds(1.0) == 2.0
    circuit.begin(B)
    circuit.succeed()
    assert circuit.state == "closed"
    assert circuit.wait_seconds(3.0) == 0


def test_a_probe_that_is_given_up_lets_another_try_at_once() -> None:
    circuit = opened()
    circuit.begin(A)
    circuit.end(B)
    assert circuit.state == "half-open"
    circuit.end(A)
    assert circuit.wait_seconds(1.0) == 0


def test_failures_of_calls_that_began_before_do_not_lengthen_the_backoff() -> None:
    circuit = opened()
    for _ in range(100):
        circuit.fail(B, "b", "down", 0.5)
    assert circuit.wait_seconds(0.5) == 0.5


def test_a_probe_keeps_the_pause_that_was_asked_for() -> None:
    circuit = opened()
    circuit.begin(A)
    circuit.fail(A, "a", "slow down", 1.0, asked_seconds=60.0)
    assert circuit.wait_seconds(1.0) == 62.0


@given(st.integers(1, 200), st.floats(0, 1, exclude_max=True))
def test_probes_are_at_most_the_cap_and_at_least_a_quarter_of_it_apart(
    probes: int, uniform: float
) -> None:
    circuit = opened()
    circuit.uniform = lambda: uniform
    for _ in range(probes):
        now = circuit.wait_seconds(0.0)
        circuit.begin(A)
        circuit.fail(A, "a", "down", now)
    wait = circuit.wait_seconds(now)
    assert min(2.0**probes, 30.0) / 4 <= wait <= 30.0


# -- the sink and its projects


def test_a_project_that_is_refused_has_to_wait_and_no_other() -> None:
    made = failing(A, B)
    assert made.wait_seconds("digits", 0.0) > 0
    assert made.wait_seconds("letters", 0.0) == 0
    report = made.report(10.0)
    assert report["state"] == "closed"
    assert report["projects"] == {"digits": {"state": "open", "seconds": 10.0, "error": "down"}}


def test_one_run_that_is_refused_holds_up_nobody() -> None:
    made = failing(A, times=100)
    assert made.wait_seconds("digits", 0.0) == 0
    assert made.report(0.0)["projects"] == {}


def test_when_all_projects_fail_the_circuit_of_the_sink_opens() -> None:
    made = failing(A, OTHER)
    assert made.wait_seconds("new", 0.0) == 1.0
    assert made.report(2.0) == {"state": "open", "seconds": 2.0, "error": "down", "projects": {}}


def test_while_another_project_works_the_circuit_of_the_sink_stays_closed() -> None:
    made = circuits()
    for _ in range(100):
        made.fail(A, "refused", 0.0)
        made.fail(B, "refused", 0.0)
        made.succeed(OTHER)
    assert made.wait_seconds("letters", 0.0) == 0
    assert made.wait_seconds("digits", 0.0) > 0


def test_when_the_sink_is_back_it_is_back_for_all_projects() -> None:
    made = failing(A, B, OTHER, ("letters", "d"))
    assert set(made.report(0.0)["projects"]) == {"digits", "letters"}
    made.begin(OTHER)
    made.succeed(OTHER)
    assert made.is_quiet
    assert made.wait_seconds("digits", 0.0) == 0


def test_a_project_that_has_not_failed_probes_before_those_that_have() -> None:
    turns = Turns(failing(A, OTHER))
    for run in (A, OTHER, ("healthy", "r")):
        turns.ask(run, 0, 0.0)
    assert [turn.run for turn in turns.due(1.0)] == [("healthy", "r")]
    turns.circuits.succeed(("healthy", "r"))
    assert len(turns.due(1.0)) == 2


def test_a_probe_that_is_not_used_is_another_s() -> None:
    turns = Turns(failing(A, B))
    for run in (A, B):
        turns.ask(run, 0, 0.0)
    (first,) = turns.due(1.0)
    assert turns.due(1.0) == []
    turns.give_back(first.run, 1.0)
    assert [turn.run for turn in turns.due(1.0)] == [B]


# -- a sink that is down


class Outage:
    """Runs that call a sink until it works, each with the backoff of its own."""

    def __init__(self, runs: int, projects: int, until: float) -> None:
        self.turns = Turns(Circuits(uniform=lambda: 0.5))
        self.until = until
        self.requests: list[float] = []
        self.attempts: dict[tuple[str, str], int] = {}
        self.done: dict[tuple[str, str], float] = {}
        self.asking = [(0.0, (f"p{n % projects}", f"r{n}")) for n in range(runs)]

    def play(self) -> None:
        now = 0.0
        while len(self.done) < len(self.attempts) or self.asking:
            for due in [one for one in self.asking if one[0] <= now]:
                self.asking.remove(due)
                self.turns.ask(due[1], 0, now)
                self.attempts.setdefault(due[1], 0)
            while given := self.turns.due(now):
                for turn in given:
                    self.call(turn.run, now)
            later = [at for at, _ in self.asking] + [self.turns.retry_at()]
            now = max(min(later), now)

    def call(self, run: tuple[str, str], now: float) -> None:
        self.requests.append(now)
        if now >= self.until:
            self.turns.circuits.succeed(run)
            self.done[run] = now
            return
        self.turns.circuits.fail(run, "down", now)
        self.attempts[run] += 1
        wait = SINK_RETRY.wait_seconds(self.attempts[run], None, 0.5)
        self.asking.append((now + wait, run))


def test_a_sink_down_for_an_hour_gets_a_few_hundred_requests_of_a_thousand_runs() -> None:
    for projects in (1, 3, 1000):
        outage = Outage(1000, projects, 3600.0)
        outage.play()
        early = [at for at in outage.requests if at < 3600.0]
        # All at once in the beginning, before anybody knows; then probes, 18.75 s apart.
        assert len([at for at in early if at > 0]) <= 3600 / (30 * 0.625) + 10
        assert len(early) <= 1000 + 3600 / (30 * 0.625) + 10
        assert len(outage.done) == 1000
        # And all go on within one backoff of its return.
        assert max(outage.done.values()) <= 3600 + 31
