"""What the program that started this process says of it: rank, world, and the id of the job.

Looked at in this order, innermost first: whoever starts processes within the job of another leaves
the other's variables to them, and ``mpirun`` within SLURM starts its helpers as tasks of a step.

| launcher | variables |
|---|---|
| torchrun | ``TORCHELASTIC_RUN_ID``, ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, … |
| Open MPI | ``OMPI_COMM_WORLD_RANK``, ``_SIZE``, ``_LOCAL_RANK``, ``_LOCAL_SIZE`` |
| MPICH, Intel MPI | ``PMI_RANK``, ``PMI_SIZE``, ``MPI_LOCALRANKID``, ``MPI_LOCALNRANKS`` |
| SLURM | ``SLURM_PROCID``, ``SLURM_STEP_NUM_TASKS``, … within a step |
| DeepSpeed | ``CROSS_RANK``, ``LOCAL_SIZE``, and as any |
| any | ``RANK``, ``WORLD_SIZE``, where the world is not that of MPI or SLURM |
| Lightning | ``NODE_RANK``, ``LOCAL_RANK``, ``WORLD_SIZE`` |
| Kubernetes | ``JOB_COMPLETION_INDEX`` with ``WORLD_SIZE`` |

What makes no sense is passed over: ``RANK`` may mean anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["ALONE", "Launcher", "find_launcher", "job_id", "lone_step_id", "number", "read_attempt"]

_ATTEMPTS_PER_REQUEUE = 1000
"""SLURM's requeues count as this many of torchrun's restarts, which begin anew with each."""

_UNSET_RENDEZVOUS = {"", "none"}
"""torchrun's --rdzv-id when nobody gave one."""

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Launcher(NamedTuple):
    """What it says.

    Attributes:
        name: Of the launcher; empty when there is none.
        is_one_node: All ranks are surely on this machine.
        marker: A variable that its processes have and itself has not; empty when one launcher may
            start many jobs, so that being its child says nothing.
        problem: Why the rank is not known, although there is a world; empty when it is.
    """

    name: str
    rank: int
    ranks: int
    nodes: int = 1
    local_rank: int = 0
    is_one_node: bool = False
    marker: str = ""
    problem: str = ""


ALONE = Launcher("", 0, 1, is_one_node=True)
"""A process that nobody has started as one of several."""


def find_launcher(environ: Mapping[str, str]) -> Launcher:
    """The innermost launcher that makes sense; :data:`ALONE` when there is none."""
    torchrun = _torchrun(environ)
    if torchrun is not None:
        return torchrun
    outer = _open_mpi(environ) or _pmi(environ) or _slurm(environ)
    ranked = _ranked(environ)
    if ranked is not None and (outer is None or outer.ranks != ranked.ranks):
        # A task for each node that starts the ranks there, or trainings beside each other.
        return ranked
    return outer or _by_node(environ) or _kubernetes(environ) or ALONE


def job_id(environ: Mapping[str, str], launcher: Launcher) -> str:
    """An id that all ranks of the job have and no other job; empty when there is none.

    SLURM's step alone is none for what starts ranks on one machine: in the shell of a step people
    start one job after the other.

    Parts are joined by ``~``, which none of them holds.
    """
    if launcher.name == "openmpi":
        return _open_mpi_job(environ)
    if launcher.name == "pmi":
        # Some of its processes are tasks of a step and others, on the first node, are not.
        return ""
    parts = []
    rendezvous = environ.get("TORCHELASTIC_RUN_ID", "")
    if launcher.name == "torchrun" and rendezvous not in _UNSET_RENDEZVOUS:
        parts.append(f"torchrun-{_quote(rendezvous)}")
    step = _step_id(environ)
    if step and (parts or launcher.name == "slurm" or not launcher.is_one_node):
        parts.append(step)
    return "~".join(parts)


def _step_id(environ: Mapping[str, str]) -> str:
    """SLURM's cluster, job (or array job and task) and step; the same after a requeue.

    Empty outside of a step: a batch script may start one training after the other. Empty in a
    heterogeneous job, whose parts have job ids of their own
    (https://slurm.schedmd.com/heterogeneous_jobs.html).
    """
    step = number(environ, "SLURM_STEP_ID")
    job = environ.get("SLURM_JOB_ID") or ""
    if step is None or not job or (number(environ, "SLURM_HET_SIZE") or 0) > 1:
        return ""
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        job = f"{array}_{task}"
    # Two clusters that share a bus count their jobs alike.
    cluster = _quote(environ.get("SLURM_CLUSTER_NAME") or "")
    return "-".join(filter(None, ("slurm", cluster, job, str(step))))


def lone_step_id(environ: Mapping[str, str]) -> str:
    """The id of a step of one task; empty for others, whose tasks may train beside each other."""
    slurm = _slurm(environ)
    return _step_id(environ) if slurm is not None and slurm.ranks == 1 else ""


def read_attempt(environ: Mapping[str, str]) -> int:
    """Which try this is: torchrun's restarts and SLURM's requeues, from 1."""
    restarts = number(environ, "TORCHELASTIC_RESTART_COUNT")
    requeues = number(environ, "SLURM_RESTART_COUNT") or 0
    if restarts is None:
        return requeues + 1
    return requeues * _ATTEMPTS_PER_REQUEUE + restarts + 1


def number(environ: Mapping[str, str], name: str) -> int | None:
    """A variable of another program: a number from 0, or nothing."""
    text = environ.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _torchrun(environ: Mapping[str, str]) -> Launcher | None:
    """https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables."""
    pair = _pair(environ, "RANK", "WORLD_SIZE")
    if "TORCHELASTIC_RUN_ID" not in environ or pair is None:
        return None
    local = number(environ, "LOCAL_WORLD_SIZE")
    return Launcher(
        "torchrun",
        *pair,
        nodes=number(environ, "GROUP_WORLD_SIZE") or _nodes(pair[1], local),
        local_rank=number(environ, "LOCAL_RANK") or 0,
        is_one_node=pair[1] in {1, local},
        marker="TORCHELASTIC_RUN_ID",
    )


def _open_mpi(environ: Mapping[str, str]) -> Launcher | None:
    """https://docs.open-mpi.org/en/v5.0.x/tuning-apps/environment-var.html."""
    pair = _pair(environ, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")
    if pair is None:
        return None
    local = number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE")
    return Launcher(
        "openmpi",
        *pair,
        nodes=_nodes(pair[1], local),
        local_rank=number(environ, "OMPI_COMM_WORLD_LOCAL_RANK") or 0,
        is_one_node=local == pair[1],
        marker="OMPI_COMM_WORLD_RANK",
    )


def _pmi(environ: Mapping[str, str]) -> Launcher | None:
    """As Hydra, the mpiexec of MPICH and Intel MPI, sets them; srun --mpi=pmi2 sets some too.

    https://github.com/pmodels/mpich/blob/main/doc/wiki/how_to/Using_the_Hydra_Process_Manager.md
    """
    pair = _pair(environ, "PMI_RANK", "PMI_SIZE")
    if pair is None:
        return None
    local = number(environ, "MPI_LOCALNRANKS")
    if local is None and _slurm(environ) is not None:
        return None
    return Launcher(
        "pmi",
        *pair,
        nodes=_nodes(pair[1], local),
        local_rank=number(environ, "MPI_LOCALRANKID") or 0,
        is_one_node=local == pair[1],
        marker="PMI_RANK",
    )


def _slurm(environ: Mapping[str, str]) -> Launcher | None:
    """https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES.

    Without SLURM_STEP_ID, or with one of the ten-digit ids for steps that are none, this is the
    batch script itself: one process, however many tasks the job has asked for.
    """
    if number(environ, "SLURM_STEP_ID") is None:
        return None
    tasks = next(
        (name for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if number(environ, name)), ""
    )
    pair = _pair(environ, "SLURM_PROCID", tasks)
    if pair is None:
        return None
    nodes = number(environ, "SLURM_STEP_NUM_NODES") or number(environ, "SLURM_NNODES") or 1
    return Launcher(
        "slurm",
        *pair,
        nodes=nodes,
        local_rank=number(environ, "SLURM_LOCALID") or 0,
        is_one_node=nodes == 1 and (number(environ, "SLURM_HET_SIZE") or 0) < 2,
        marker="SLURM_PROCID",
    )


def _ranked(environ: Mapping[str, str]) -> Launcher | None:
    """As https://docs.pytorch.org/docs/stable/distributed.html#environment-variable-initialization.

    Whoever sets these may live for long and start many jobs, as Ray's and the shell do; of
    DeepSpeed's launcher it is known that it does not.
    """
    pair = _pair(environ, "RANK", "WORLD_SIZE")
    if pair is None:
        return None
    is_deepspeed = "CROSS_RANK" in environ
    local = number(environ, "LOCAL_WORLD_SIZE") or number(environ, "LOCAL_SIZE")
    return Launcher(
        "ranked",
        *pair,
        nodes=number(environ, "GROUP_WORLD_SIZE") or _nodes(pair[1], local),
        local_rank=number(environ, "LOCAL_RANK") or 0,
        is_one_node=local == pair[1] or _is_loopback(environ),
        marker="CROSS_RANK" if is_deepspeed else "",
    )


def _by_node(environ: Mapping[str, str]) -> Launcher | None:
    """https://lightning.ai/docs/pytorch/stable/clouds/cluster_intermediate_1.html.

    The rank is that of the node times the ranks on each, which only the first node need not know.
    """
    node, local = number(environ, "NODE_RANK"), number(environ, "LOCAL_RANK")
    ranks = number(environ, "WORLD_SIZE")
    if node is None or local is None or not ranks:
        return None
    width = number(environ, "LOCAL_WORLD_SIZE")
    nodes = number(environ, "NNODES") or number(environ, "NUM_NODES")
    if width is None and nodes and ranks % nodes == 0:
        width = ranks // nodes
    rank = node * (width or 0) + local
    if local >= (width or ranks) or rank >= ranks:
        return None
    problem = ""
    if node and width is None:
        problem = f"NODE_RANK={node} and LOCAL_RANK={local} say no rank without LOCAL_WORLD_SIZE"
    return Launcher(
        "by-node",
        rank,
        ranks,
        nodes=nodes or _nodes(ranks, width),
        local_rank=local,
        is_one_node=width == ranks or _is_loopback(environ),
        problem=problem,
    )


def _kubernetes(environ: Mapping[str, str]) -> Launcher | None:
    """https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode.

    The number of completions is in no variable. Without one that says how many train together,
    the indexes are those of tasks by themselves.
    """
    pair = _pair(environ, "JOB_COMPLETION_INDEX", "WORLD_SIZE")
    return None if pair is None else Launcher("kubernetes", *pair, nodes=pair[1])


def _open_mpi_job(environ: Mapping[str, str]) -> str:
    """128 random bits of this mpirun, up to version 4; all its ranks have them for the network.

    https://github.com/open-mpi/ompi/blob/v4.1.x/orte/util/pre_condition_transports.c. SLURM's step
    would not do: on the first node mpirun starts ranks by itself, on others by a step.
    """
    key = environ.get("OMPI_MCA_orte_precondition_transports", "")
    if len(key) < 32:
        return ""
    # Imported here: it loads OpenSSL. It is hashed since it also lets others into the job.
    import hashlib

    return f"mpi-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _pair(environ: Mapping[str, str], rank: str, ranks: str) -> tuple[int, int] | None:
    first, second = number(environ, rank), number(environ, ranks)
    return None if first is None or not second or first >= second else (first, second)


def _nodes(ranks: int, local: int | None) -> int:
    return -(-ranks // local) if local else 1


def _is_loopback(environ: Mapping[str, str]) -> bool:
    return environ.get("MASTER_ADDR", "") in _LOOPBACK


def _quote(text: str) -> str:
    return text.replace("%", "%25").replace("~", "%7E")
