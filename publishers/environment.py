"""Who this process is: run, project, node, rank, world and attempt, from what surrounds it.

In this order: the arguments of ``start_run``, ``TRAINBUS_*``, what a launcher says
(:mod:`publishers.launchers`), the wrapper, and else a single process of a new run. Variables of
other programs that make no sense are passed over; a malformed ``TRAINBUS_*`` is an error.

| variable | meaning |
|---|---|
| ``TRAINBUS_RUN_ID`` | the run; all its processes have to agree on it |
| ``TRAINBUS_PROJECT``, ``TRAINBUS_RUN_NAME`` | project, and the name people read |
| ``TRAINBUS_NODE`` | this machine |
| ``TRAINBUS_RANK``, ``TRAINBUS_WORLD``, ``TRAINBUS_NODES`` | rank from 0, ranks, nodes |
| ``TRAINBUS_ATTEMPT`` | which try of this rank it is, from 1 |
| ``TRAINBUS_WRAPPER_RUN_ID`` | from ``trainbus run``: the run, where nothing else names it |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from bus.errors import ConfigError
from publishers.launchers import (
    Launcher,
    find_launcher,
    job_id,
    lone_step_id,
    number,
    read_attempt,
)

__all__ = ["Hints", "Origin", "Parent", "Place", "find_place"]

Origin = Literal["argument", "variable", "job", "wrapper", "new"]
"""Where a run id comes from: the call, TRAINBUS_RUN_ID, the launcher, the wrapper, or nowhere."""

_ADVICE = {
    "openmpi": "start them by mpirun -x TRAINBUS_RUN_ID=… with a text of its own for each job",
    "pmi": "start them by mpiexec -genv TRAINBUS_RUN_ID … with a text of its own for each job",
    "torchrun": "set TRAINBUS_RUN_ID, or give each torchrun the same --rdzv-id, new for each job",
    "kubernetes": "set TRAINBUS_RUN_ID in the pods, from the field "
    "metadata.labels['batch.kubernetes.io/controller-uid']",
}


_WRAPPER_RUN_ID = "TRAINBUS_WRAPPER_RUN_ID"


class Parent(NamedTuple):
    """The program that started this process and its like.

    Attributes:
        job: A run id that all it starts come to, and nobody else; empty when it cannot be told.
        process: Its id; 0 when it is not known.
        is_direct: Nothing stands between, such as a shell, which may start one training after the
            other.
    """

    job: str = ""
    process: int = 0
    is_direct: bool = False


def _nobody(_marker: str, _process: int) -> Parent:
    return Parent()


class Hints(NamedTuple):
    """What cannot be read from variables.

    Attributes:
        host: This machine's name.
        new_run: A run id nobody else uses.
        find_parent: Finds the nearest process above that does not have a variable; above this
            process, or above that of an id other than 0.
    """

    host: str
    new_run: str
    find_parent: Callable[[str, int], Parent] = _nobody


class _Found(NamedTuple):
    """A run id; see :class:`Place`."""

    run: str
    origin: Origin
    claimant: str | None = None


class Place(NamedTuple):
    """The answer.

    Attributes:
        local_rank: Rank of this process on its machine, from 0.
        origin: Where the run id comes from.
        claimant: With an id of the wrapper: who it is for among the trainings of its command;
            empty for this call alone. None for other ids.
    """

    run: str
    project: str
    name: str
    node: str
    rank: int = 0
    ranks: int = 1
    nodes: int = 1
    attempt: int = 1
    local_rank: int = 0
    origin: Origin = "argument"
    claimant: str | None = None

    @property
    def is_lead(self) -> bool:
        """This process is the first of the run on its machine."""
        return self.local_rank == 0


def find_place(
    environ: Mapping[str, str],
    hints: Hints,
    *,
    run: str | None = None,
    project: str | None = None,
    name: str | None = None,
    node: str | None = None,
    rank: int | None = None,
    ranks: int | None = None,
    nodes: int | None = None,
    attempt: int | None = None,
) -> Place:
    """Decide who this process is. Arguments that are None are looked for in ``environ``.

    Raises:
        ConfigError: There is no project, a number is malformed or out of range, or several ranks
            have nothing to take a common run id from.
    """
    project = project or environ.get("TRAINBUS_PROJECT")
    if not project:
        raise ConfigError("no project: give start_run(project=…) or set TRAINBUS_PROJECT")
    launcher = find_launcher(environ)
    our_rank = _number(environ, "TRAINBUS_RANK", 0)
    if launcher.problem and rank is None and our_rank is None:
        raise ConfigError(f"{launcher.problem}: set it, or TRAINBUS_RANK and TRAINBUS_WORLD")
    rank = _first(rank, "rank", our_rank, launcher.rank, lowest=0)
    ranks = _first(ranks, "world", _number(environ, "TRAINBUS_WORLD", 1), launcher.ranks)
    nodes = _first(nodes, "nodes", _number(environ, "TRAINBUS_NODES", 1), launcher.nodes)
    our_attempt = _number(environ, "TRAINBUS_ATTEMPT", 1)
    attempt = _first(attempt, "attempt", our_attempt, read_attempt(environ))
    if rank >= ranks:
        raise ConfigError(f"rank {rank} is not below {ranks}, the ranks of the run (world)")
    if run:
        found = _Found(run, "argument")
    elif told := environ.get("TRAINBUS_RUN_ID"):
        found = _Found(told, "variable")
    else:
        found = _find_run(environ, hints, launcher, ranks)
    return Place(
        run=found.run,
        project=project,
        name=name or environ.get("TRAINBUS_RUN_NAME") or found.run,
        node=node
        or environ.get("TRAINBUS_NODE")
        or environ.get("SLURMD_NODENAME")
        or hints.host
        or "node",
        rank=rank,
        ranks=ranks,
        nodes=min(nodes, ranks),
        attempt=attempt,
        local_rank=launcher.local_rank,
        origin=found.origin,
        claimant=found.claimant,
    )


def _find_run(environ: Mapping[str, str], hints: Hints, launcher: Launcher, ranks: int) -> _Found:
    if ranks == 1:
        return _run_of_one(environ, hints, launcher)
    shared = _run_of_all(environ, hints, launcher, is_whole=launcher.ranks == ranks)
    if shared is None:
        advice = _ADVICE.get(launcher.name, "set TRAINBUS_RUN_ID to the same text for all of them")
        raise ConfigError(f"{ranks} ranks need one run id: {advice}")
    return shared


def _run_of_all(
    environ: Mapping[str, str], hints: Hints, launcher: Launcher, *, is_whole: bool
) -> _Found | None:
    """What all ranks of a job come to; ``is_whole``: the ranks are those of the launcher."""
    job = job_id(environ, launcher)
    if job:
        return _Found(job, "job")
    if not (is_whole and launcher.is_one_node):
        # Of several nodes each may have a wrapper of its own.
        return None
    parent = hints.find_parent(launcher.marker, 0) if launcher.marker else Parent()
    if parent.process and hints.find_parent("SLURM_PROCID", parent.process).is_direct:
        job = lone_step_id(environ)
    wrapper = environ.get(_WRAPPER_RUN_ID)
    if wrapper and not job:
        # Where the launcher is not known all that is launched is taken for one.
        return _Found(wrapper, "wrapper", parent.job or "ranks")
    job = job or parent.job
    return _Found(job, "job") if job else None


def _run_of_one(environ: Mapping[str, str], hints: Hints, launcher: Launcher) -> _Found:
    if launcher.rank == 0 and (launcher.ranks > 1 or launcher.name == "torchrun"):
        # Of several ranks this one alone publishes, or an elastic job has shrunk to it.
        found = _run_of_all(environ, hints, launcher, is_whole=True)
        if found is not None:
            return found
    wrapper = environ.get(_WRAPPER_RUN_ID)
    if wrapper:
        return _Found(wrapper, "wrapper", "")
    step = lone_step_id(environ) if launcher.name == "slurm" else ""
    if step and hints.find_parent(launcher.marker, 0).is_direct:
        return _Found(step, "job")
    return _Found(hints.new_run, "new")


def _first(argument: Any, name: str, ours: int | None, theirs: int, *, lowest: int = 1) -> int:
    if argument is None:
        return theirs if ours is None else ours
    if isinstance(argument, bool) or not isinstance(argument, int) or argument < lowest:
        raise ConfigError(f"start_run: {name} is a whole number from {lowest}, not {argument!r}")
    return argument


def _number(environ: Mapping[str, str], name: str, lowest: int) -> int | None:
    """One of our variables."""
    text = environ.get(name)
    if not text:
        return None
    value = number(environ, name)
    if value is None or value < lowest:
        raise ConfigError(f"{name} is a whole number from {lowest}, not {text!r}")
    return value
