"""The runs of one process, counted: each ``start_run`` gets its own.

What surrounds a process names one run. A program that trains several times, as a search for good
settings does, starts the first under that id and the nth under ``ID~n``. All ranks of a job run the
same program and count alike, and so does the job when it is started again. Whether the runs before
have finished makes no difference: ranks are not equally far.

The id that ``trainbus run`` makes is shared out among the processes of its command, by
:mod:`publishers.claims`. Calls with a ``run_id`` of their own are not counted, nor are those that
failed.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from publishers.claims import claim_run
from publishers.environment import Place

__all__ = ["Counter", "process_runs"]


class Counter:
    """How often each id was given. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given: dict[str, int] = {}

    def number(self, place: Place, spool: Path) -> Place:
        """The same place in the run that is this one's own.

        Args:
            place: With the run that the surroundings name.
            spool: Where the processes of a wrapper's command say who takes which.
        """
        if place.origin in {"argument", "new"}:
            return place
        with self._lock:
            count = self._given[place.run] = self._given.get(place.run, 0) + 1
        if place.claimant is not None:
            # All ranks of a launcher ask for the same.
            claimant = place.claimant and f"{place.claimant}/{count}"
            return _in_run(place, claim_run(spool, place.run, claimant))
        return place if count == 1 else _in_run(place, f"{place.run}~{count}")

    def reset_after_fork(self) -> None:
        """Make the copy in a forked child usable: another thread may have held the lock."""
        self._lock = threading.Lock()


def _in_run(place: Place, run: str) -> Place:
    return place._replace(run=run, name=run if place.name == place.run else place.name)


process_runs = Counter()
"""Those of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=process_runs.reset_after_fork)
