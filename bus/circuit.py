"""Circuits: when a sink fails for many, one tries for all. Pure.

While a circuit is *closed* every run calls the sink, with the backoff of its own. Several failures
in a row, of more than one caller, *open* it: then one call at a time is let through as a probe, the
circuit is *half-open* as long as that is under way, and backs off from probe to probe. The first
call that works closes it. So a sink that is down for an hour with a thousand runs waiting gets a
few hundred requests, and not a thousand times as many.

Who fails decides what opens, so that nobody waits for the trouble of another:

- one failing run keeps its own backoff and opens nothing;
- a project whose runs fail (its tracker project refuses writes) has a circuit of its own;
- the circuit of the sink opens when more than one project fails and none works.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bus.ratelimit import RunKey
from bus.retry import Backoff, RetryPolicy

__all__ = ["MAX_PAUSE_SECONDS", "Circuit", "CircuitPolicy", "Circuits", "pause_seconds"]

MAX_PAUSE_SECONDS = 3600.0
"""The longest pause that is heeded before the sink is asked again."""

REPORTED_PROJECTS = 20
_REPORTED_CHARACTERS = 300


def pause_seconds(asked_seconds: float | None) -> float:
    """The pause a tracker asked for, as far as it makes sense."""
    if asked_seconds is None or not math.isfinite(asked_seconds):
        return 0.0
    return min(max(asked_seconds, 0.0), MAX_PAUSE_SECONDS)


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """When a circuit opens, and how it is tried.

    Attributes:
        failures: So many failures in a row open it,
        callers: of so many callers at the least.
        probe: Between two probes; never below a quarter of the policy's bound.
    """

    failures: int = 5
    callers: int = 2
    probe: RetryPolicy = field(default=RetryPolicy(initial_seconds=1.0, cap_seconds=30.0))


@dataclass(slots=True)
class Circuit:
    """One circuit. A run has at most one call under way; times are monotonic.

    Attributes:
        opened_at: Since when it has not been closed; None while it is.
        last_error: Of the last failure.
        failed: Who failed since the last success: runs, or projects.
    """

    policy: CircuitPolicy = field(default_factory=CircuitPolicy)
    uniform: Callable[[], float] = random.random
    opened_at: float | None = None
    last_error: str = ""
    failed: set[str] = field(default_factory=set)
    _failures: int = 0
    _probe: RunKey | None = None
    _probe_at: float = 0.0
    _backoff: Backoff = field(init=False)

    def __post_init__(self) -> None:
        self._backoff = Backoff(self.policy.probe, self.uniform)

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self.opened_at is None:
            return "closed"
        return "open" if self._probe is None else "half-open"

    def wait_seconds(self, now: float) -> float:
        """How long until a call may begin: infinite while a probe is under way."""
        if self.opened_at is None:
            return 0.0
        return max(self._probe_at - now, 0.0) if self._probe is None else math.inf

    def begin(self, run: RunKey) -> None:
        """A call that may begin begins."""
        if self.opened_at is not None:
            self._probe = run

    def end(self, run: RunKey) -> None:
        """A call ended and nothing is known by it: another may probe at once."""
        if run == self._probe:
            self._probe = None

    def fail(
        self, run: RunKey, caller: str, error: str, now: float, asked_seconds: float | None = None
    ) -> None:
        """A call failed for reasons that may pass; ``caller`` is who is counted."""
        self._failures += 1
        self.failed.add(caller)
        self.last_error = error
        if self.opened_at is None:
            if self._failures < self.policy.failures or len(self.failed) < self.policy.callers:
                return
            self.opened_at = now
        elif run != self._probe:
            return  # it began before the circuit opened
        self._probe = None
        self._probe_at = now + self._backoff.next_seconds() + pause_seconds(asked_seconds)

    def succeed(self) -> None:
        """A call was answered: whatever was wrong is over."""
        self.opened_at = self._probe = None
        self._failures = 0
        self.failed.clear()
        self._backoff.reset()


class Circuits:
    """The circuit of a sink and those of its projects."""

    def __init__(
        self, policy: CircuitPolicy | None = None, uniform: Callable[[], float] = random.random
    ) -> None:
        self._policy = policy or CircuitPolicy()
        self._uniform = uniform
        self._sink = Circuit(self._policy, uniform)
        self._projects: dict[str, Circuit] = {}
        """Of projects with failures since their last success."""

    @property
    def is_quiet(self) -> bool:
        """Nothing has failed since the last success: nobody has to ask."""
        return not self._projects

    def sink_wait_seconds(self, now: float) -> float:
        """How long until the sink may be called at all."""
        return self._sink.wait_seconds(now)

    def wait_seconds(self, project: str, now: float) -> float:
        """How long until a run of a project may call the sink; infinite while a probe decides."""
        circuit = self._projects.get(project)
        wait = self._sink.wait_seconds(now)
        return wait if circuit is None else max(wait, circuit.wait_seconds(now))

    def is_poor_probe(self, project: str) -> bool:
        """The sink's circuit is open and the project has failed: another tells more of the sink."""
        return self._sink.opened_at is not None and project in self._sink.failed

    def begin(self, run: RunKey) -> None:
        """A call that may begin begins."""
        for circuit in self._of(run):
            circuit.begin(run)

    def end(self, run: RunKey) -> None:
        """A call ended and nothing is known by it."""
        for circuit in self._of(run):
            circuit.end(run)

    def fail(self, run: RunKey, error: str, now: float, asked_seconds: float | None = None) -> None:
        """A call failed for reasons that may pass."""
        project, name = run
        if project not in self._projects:
            self._projects[project] = Circuit(self._policy, self._uniform)
        self._projects[project].fail(run, name, error, now, asked_seconds)
        self._sink.fail(run, project, error, now, asked_seconds)

    def succeed(self, run: RunKey) -> None:
        """A call was answered."""
        if self._sink.opened_at is not None:
            # What kept the sink from everybody kept it from each project.
            self._projects.clear()
        self._projects.pop(run[0], None)
        self._sink.succeed()

    def report(self, now: float) -> dict[str, Any]:
        """For people: the state of the sink's circuit, and the projects whose own is not closed."""
        opened = [(n, c) for n, c in self._projects.items() if c.opened_at is not None]
        projects = {name: _report(c, now) for name, c in opened[:REPORTED_PROJECTS]}
        return {**_report(self._sink, now), "projects": projects}

    def _of(self, run: RunKey) -> list[Circuit]:
        circuit = self._projects.get(run[0])
        return [self._sink] if circuit is None else [self._sink, circuit]


def _report(circuit: Circuit, now: float) -> dict[str, Any]:
    if circuit.opened_at is None:
        return {"state": "closed", "seconds": 0.0, "error": ""}
    return {
        "state": circuit.state,
        "seconds": round(now - circuit.opened_at, 1),
        "error": circuit.last_error[:_REPORTED_CHARACTERS],
    }
