"""When a run has ended, and how: decided from what its ranks report, in any order.

The rules:

- A run ends when every rank of its world has finished. Of each rank the highest attempt counts;
  the world is that of the highest attempt seen. A rank that is no longer in the world (the run
  shrank) does not count. While no event has named the world, the ranks seen so far are it.
- The worst status wins: killed, then failed, then completed. Killed is worst because a killed
  process leaves no account of itself.
- The end is the latest end among those ranks.
- A rank that starts a higher attempt reopens the run.
- Of two ends of one attempt, the process's own word (completed, failed) beats "killed", which
  others report for a process they take for dead.
- The log group speaks for nodes that are lost, and counts its words per process: an odd one says
  that the node is lost and the attempt counts as killed, an even one that it has returned and the
  attempt runs again. The highest counts, and any end that came from the node beats it.

Every rule takes a maximum, so that events may come late, twice or in any order, and the outcome is
the same.

**Text form**, for a tracker's tag: ``1;w2@1;0:1c1767225600.5;1:1r`` is version 1; the world of two
ranks, named by attempt 1; rank 0 in attempt 1, completed at that Unix time; rank 1 in attempt 1,
running. ``f`` is failed, ``k`` killed; ``w-`` stands for a world not named yet. ``l1@1767225600.5``
behind a rank is the first word about its node: lost, at that time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import get_args

from bus.errors import EventError
from bus.kinds import RunStatus

__all__ = ["Outcome", "RankState", "RunLife"]

_SEVERITY: dict[RunStatus, int] = {"completed": 0, "failed": 1, "killed": 2}
_LETTERS: dict[RunStatus, str] = {"completed": "c", "failed": "f", "killed": "k"}
_STATUSES: dict[str, RunStatus] = {letter: status for status, letter in _LETTERS.items()}

assert set(_SEVERITY) == set(get_args(RunStatus))

_VERSION = "1"
_WORLD = re.compile(r"w(?:(\d+)@(\d+)|-)")
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
_RANK = re.compile(rf"(\d+):(\d+)(?:r|([cfk])({_NUMBER}))(?:l(\d+)@({_NUMBER}))?")


@dataclass(frozen=True, slots=True)
class RankState:
    """The latest known of one rank.

    Attributes:
        attempt: The highest attempt seen, from 1.
        status: How that attempt ended; None while it runs.
        end_seconds: When it ended, Unix seconds.
        loss: The log group's highest word about its node: odd lost, even returned, 0 none.
        loss_seconds: When that was, Unix seconds.
    """

    attempt: int
    status: RunStatus | None = None
    end_seconds: float = 0.0
    loss: int = 0
    loss_seconds: float = 0.0

    def merge(self, other: RankState) -> RankState:
        """What counts of two reports about the same rank."""
        if self.attempt != other.attempt:
            return max(self, other, key=lambda state: state.attempt)
        word = max(self, other, key=RankState._weight)
        loss = max(self, other, key=lambda state: (state.loss, state.loss_seconds))
        return replace(word, loss=loss.loss, loss_seconds=loss.loss_seconds)

    def end(self) -> tuple[RunStatus, float] | None:
        """How and when the attempt ended; None while it runs."""
        if self.status is not None:
            return self.status, self.end_seconds
        return ("killed", self.loss_seconds) if self.loss % 2 else None

    def _weight(self) -> tuple[int, bool, bool, int, float]:
        if self.status is None:
            return (self.attempt, False, False, 0, 0.0)
        is_own_word = self.status != "killed"
        return (self.attempt, True, is_own_word, _SEVERITY[self.status], self.end_seconds)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, and when (Unix seconds)."""

    status: RunStatus
    end_seconds: float


@dataclass(slots=True)
class RunLife:
    """What is known of the ranks of one run.

    Attributes:
        world: Attempt that named it and number of ranks; None while no event has.
        ranks: The state of each rank seen.
    """

    world: tuple[int, int] | None = None
    ranks: dict[int, RankState] = field(default_factory=dict)

    def start(self, rank: int, attempt: int, world_ranks: int) -> None:
        """A process of the run has begun."""
        self.world = max(self.world or (0, 0), (attempt, world_ranks))
        self._merge(rank, RankState(attempt))

    def finish(self, rank: int, attempt: int, status: RunStatus, end_seconds: float) -> None:
        """A process of the run has ended, or is taken for dead on its own node."""
        self._merge(rank, RankState(attempt, status, end_seconds))

    def see_loss(self, rank: int, attempt: int, loss: int, seconds: float) -> None:
        """The log group's word about the node of a process: odd lost, even returned."""
        self._merge(rank, RankState(attempt, loss=loss, loss_seconds=seconds))

    def outcome(self) -> Outcome | None:
        """How the run ended; None while it runs."""
        size = self.world[1] if self.world else max(self.ranks, default=-1) + 1
        states = [self.ranks.get(rank) for rank in range(size)] if size <= len(self.ranks) else []
        ends = [end for state in states if state is not None and (end := state.end())]
        if not ends or len(ends) < size:
            return None
        worst = max((status for status, _ in ends), key=lambda status: _SEVERITY[status])
        return Outcome(worst, max(end for _, end in ends))

    def copy(self) -> RunLife:
        """An independent twin."""
        return RunLife(self.world, dict(self.ranks))

    @classmethod
    def parse(cls, text: str) -> RunLife:
        """Read the text form. An empty text is a run of which nothing is known.

        Raises:
            EventError: It is not the text form.
        """
        if not text:
            return cls()
        version, *parts = text.split(";")
        world = _WORLD.fullmatch(parts[0]) if parts else None
        if version != _VERSION or world is None:
            raise EventError("lifecycle", f"{text[:60]!r} is not the life of a run")
        life = cls((int(world[2]), int(world[1])) if world[1] else None)
        for part in parts[1:]:
            match = _RANK.fullmatch(part)
            if match is None:
                raise EventError("lifecycle", f"{part[:60]!r} is not the state of a rank")
            rank, attempt, letter, end, loss, since = match.groups()
            status = _STATUSES.get(letter or "")
            life.ranks[int(rank)] = RankState(
                int(attempt), status, float(end or 0.0), int(loss or 0), float(since or 0.0)
            )
        return life

    def __str__(self) -> str:
        world = f"w{self.world[1]}@{self.world[0]}" if self.world else "w-"
        ranks = (_rank_text(rank, state) for rank, state in sorted(self.ranks.items()))
        return ";".join([_VERSION, world, *ranks])

    def _merge(self, rank: int, state: RankState) -> None:
        known = self.ranks.get(rank)
        self.ranks[rank] = state if known is None else known.merge(state)


def _rank_text(rank: int, state: RankState) -> str:
    word = "r" if state.status is None else f"{_LETTERS[state.status]}{state.end_seconds!r}"
    loss = f"l{state.loss}@{state.loss_seconds!r}" if state.loss else ""
    return f"{rank}:{state.attempt}{word}{loss}"
