"""Who this process is: run, project, node, rank, world and attempt, from what surrounds it.

In this order: the arguments of ``start_run``, ``TRAINBUS_*``, torchrun, SLURM, and else a single
process of a new run. Variables of other programs that make no sense are passed over; a malformed
``TRAINBUS_*`` is an error.

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

from collections.abc import Mapping
from typing import Any, NamedTuple

from bus.errors import ConfigError

__all__ = ["Hints", "Place", "find_place"]

_ATTEMPTS_PER_REQUEUE = 1000
"""SLURM's requeues count as this many of torchrun's restarts, which begin anew with each."""


class Hints(NamedTuple):
    """What cannot be read from variables.

    Attributes:
        host: This machine's name.
        new_run: A run id nobody else uses.
        siblings: A run id that the other children of this process's parent come to as well, and
            nobody else; empty when it cannot be told.
    """

    host: str
    new_run: str
    siblings: str = ""


class Place(NamedTuple):
    """The answer.

    Attributes:
        is_lead: This process is the first of the run on its machine.
    """

    run: str
    project: str
    name: str
    node: str
    rank: int = 0
    ranks: int = 1
    nodes: int = 1
    attempt: int = 1
    is_lead: bool = True


class _Launcher(NamedTuple):
    """What torchrun or SLURM says."""

    rank: int
    ranks: int
    nodes: int
    local_rank: int
    is_one_node: bool


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
    launcher = _torchrun(environ) or _slurm(environ) or _Launcher(0, 1, 1, 0, is_one_node=True)
    rank = _first(rank, "rank", _number(environ, "TRAINBUS_RANK", 0), launcher.rank, lowest=0)
    ranks = _first(ranks, "world", _number(environ, "TRAINBUS_WORLD", 1), launcher.ranks)
    nodes = _first(nodes, "nodes", _number(environ, "TRAINBUS_NODES", 1), launcher.nodes)
    attempt = _first(attempt, "attempt", _number(environ, "TRAINBUS_ATTEMPT", 1), _attempt(environ))
    if rank >= ranks:
        raise ConfigError(f"rank {rank} is not below {ranks}, the ranks of the run (world)")
    run = run or environ.get("TRAINBUS_RUN_ID") or _run_id(environ, hints, launcher, ranks)
    return Place(
        run=run,
        project=project,
        name=name or environ.get("TRAINBUS_RUN_NAME") or run,
        node=node
        or environ.get("TRAINBUS_NODE")
        or environ.get("SLURMD_NODENAME")
        or hints.host
        or "node",
        rank=rank,
        ranks=ranks,
        nodes=min(nodes, ranks),
        attempt=attempt,
        is_lead=launcher.local_rank == 0,
    )


def _run_id(environ: Mapping[str, str], hints: Hints, launcher: _Launcher, ranks: int) -> str:
    wrapper = environ.get("TRAINBUS_WRAPPER_RUN_ID", "")
    if ranks == 1:
        return wrapper or hints.new_run
    siblings = wrapper or hints.siblings
    if launcher.ranks == ranks and launcher.is_one_node and siblings:
        # Better than a rendezvous id, which people reuse from one training to the next.
        return siblings
    job = _slurm_job(environ)
    rendezvous = environ.get("TORCHELASTIC_RUN_ID", "")
    if rendezvous in {"", "none"}:
        shared = job
    else:
        shared = "-".join(filter(None, ("torchrun", rendezvous, job)))
    if not shared:
        raise ConfigError(
            f"{ranks} ranks need one run id: set TRAINBUS_RUN_ID to the same text for all of them"
        )
    return shared


def _torchrun(environ: Mapping[str, str]) -> _Launcher | None:
    """https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables."""
    rank, ranks = _foreign(environ, "RANK"), _foreign(environ, "WORLD_SIZE")
    if rank is None or not ranks or rank >= ranks:
        return None
    local = _foreign(environ, "LOCAL_WORLD_SIZE")
    nodes = _foreign(environ, "GROUP_WORLD_SIZE") or (-(-ranks // local) if local else 1)
    return _Launcher(
        rank=rank,
        ranks=ranks,
        nodes=nodes,
        local_rank=_foreign(environ, "LOCAL_RANK") or 0,
        is_one_node=local == ranks,
    )


def _slurm(environ: Mapping[str, str]) -> _Launcher | None:
    """https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES.

    Without SLURM_STEP_ID, or with one of the ten-digit ids for steps that are none, this is the
    batch script itself: one process, however many tasks the job has asked for.
    """
    if _foreign(environ, "SLURM_STEP_ID") is None:
        return None
    rank = _foreign(environ, "SLURM_PROCID")
    ranks = _foreign(environ, "SLURM_STEP_NUM_TASKS") or _foreign(environ, "SLURM_NTASKS")
    if rank is None or not ranks or rank >= ranks:
        return None
    nodes = _foreign(environ, "SLURM_STEP_NUM_NODES") or _foreign(environ, "SLURM_NNODES") or 1
    local_rank = _foreign(environ, "SLURM_LOCALID") or 0
    return _Launcher(rank, ranks, nodes, local_rank, is_one_node=nodes == 1)


def _slurm_job(environ: Mapping[str, str]) -> str:
    """Job (or array job and task) and step; the same after a requeue."""
    job = environ.get("SLURM_JOB_ID") or ""
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        job = f"{array}_{task}"
    step = _foreign(environ, "SLURM_STEP_ID")
    return f"slurm-{job}" + ("" if step is None else f"-{step}") if job else ""


def _attempt(environ: Mapping[str, str]) -> int:
    restarts = _foreign(environ, "TORCHELASTIC_RESTART_COUNT")
    requeues = _foreign(environ, "SLURM_RESTART_COUNT") or 0
    if restarts is None:
        return requeues + 1
    return requeues * _ATTEMPTS_PER_REQUEUE + restarts + 1


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
    value = _foreign(environ, name)
    if value is None or value < lowest:
        raise ConfigError(f"{name} is a whole number from {lowest}, not {text!r}")
    return value


def _foreign(environ: Mapping[str, str], name: str) -> int | None:
    """A variable of another program: a number from 0, or nothing."""
    text = environ.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
