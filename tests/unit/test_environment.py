from __future__ import annotations

import pytest

from bus.errors import ConfigError
from publishers.environment import Hints, Parent, find_place

LAUNCHER, SHELL, DAEMON = 10, 20, 30


def parent_of(marker: str, process: int) -> Parent:
    """A launcher in a shell in a step of SLURM."""
    if marker == "SLURM_PROCID":
        return Parent("job-daemon", DAEMON, is_direct=process == SHELL)
    return Parent("job-1", LAUNCHER, is_direct=True)


def task_of(marker: str, process: int) -> Parent:
    """This process, or its launcher, is a task of a step by itself."""
    if marker == "SLURM_PROCID":
        return Parent("job-daemon", DAEMON, is_direct=True)
    return Parent("job-1", LAUNCHER, is_direct=True)


HINTS = Hints(host="box", new_run="new", find_parent=parent_of)
TASK = Hints(host="box", new_run="new", find_parent=task_of)

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_RUN_ID": "exp7",
}
SRUN = {
    "SLURM_JOB_ID": "99",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "2",
    "SLURMD_NODENAME": "gpu7",
}


def test_a_process_by_itself_gets_a_new_run() -> None:
    place = find_place({}, HINTS, project="p")
    assert (place.run, place.name, place.node) == ("new", "new", "box")
    assert (place.rank, place.ranks, place.nodes, place.attempt) == (0, 1, 1, 1)
    assert place.is_lead


def test_our_own_variables_come_first() -> None:
    ours = {
        "TRAINBUS_RUN_ID": "r",
        "TRAINBUS_PROJECT": "p",
        "TRAINBUS_RUN_NAME": "mlp",
        "TRAINBUS_NODE": "n",
        "TRAINBUS_RANK": "2",
        "TRAINBUS_WORLD": "3",
        "TRAINBUS_NODES": "3",
        "TRAINBUS_ATTEMPT": "4",
    }
    place = find_place({**TORCHRUN, **SRUN, **ours}, HINTS)
    assert (place.run, place.project, place.name, place.node) == ("r", "p", "mlp", "n")
    assert (place.rank, place.ranks, place.nodes, place.attempt) == (2, 3, 3, 4)


def test_arguments_come_before_variables() -> None:
    environ = {"TRAINBUS_RUN_ID": "r", "TRAINBUS_RANK": "1", "TRAINBUS_WORLD": "2"}
    place = find_place(
        environ,
        HINTS,
        run="x",
        project="p",
        name="a",
        node="n",
        rank=0,
        ranks=4,
        nodes=2,
        attempt=9,
    )
    assert (place.run, place.name, place.node) == ("x", "a", "n")
    assert (place.rank, place.ranks, place.nodes, place.attempt) == (0, 4, 2, 9)


def test_torchrun_gives_rank_world_nodes_and_attempt() -> None:
    place = find_place(TORCHRUN, HINTS, project="p")
    assert (place.rank, place.ranks, place.nodes, place.attempt) == (5, 8, 2, 3)
    assert place.run == "torchrun-exp7"
    assert not place.is_lead


def test_torchrun_on_one_machine_takes_the_run_from_its_parent() -> None:
    environ = {**TORCHRUN, "LOCAL_WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "none"}
    assert find_place(environ, HINTS, project="p").run == "job-1"


def test_torchrun_within_slurm_is_told_apart_by_the_job() -> None:
    environ = {**TORCHRUN, "SLURM_JOB_ID": "99", "SLURM_STEP_ID": "0"}
    assert find_place(environ, HINTS, project="p").run == "torchrun-exp7~slurm-99-0"
    environ["TORCHELASTIC_RUN_ID"] = "none"
    assert find_place(environ, HINTS, project="p").run == "slurm-99-0"


def test_ranks_without_anything_in_common_are_told_to_set_the_run_id() -> None:
    environ = {**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}
    with pytest.raises(ConfigError, match="set TRAINBUS_RUN_ID"):
        find_place(environ, HINTS, project="p")
    with pytest.raises(ConfigError, match="set TRAINBUS_RUN_ID"):
        find_place({}, HINTS, project="p", rank=0, ranks=2)


def test_srun_gives_rank_world_nodes_and_node_name() -> None:
    place = find_place(SRUN, HINTS, project="p")
    assert (place.rank, place.ranks, place.nodes, place.node) == (3, 4, 2, "gpu7")
    assert place.run == "slurm-99-0"
    assert not place.is_lead


def test_the_batch_script_itself_is_one_process() -> None:
    environ = {key: value for key, value in SRUN.items() if key != "SLURM_STEP_ID"}
    place = find_place(environ, HINTS, project="p")
    assert (place.rank, place.ranks, place.run) == (0, 1, "new")


@pytest.mark.parametrize("step", ["4294967290", "4294967291", "batch", ""])
def test_a_step_that_is_none_is_one_process(step: str) -> None:
    place = find_place({**SRUN, "SLURM_STEP_ID": step}, HINTS, project="p")
    assert (place.rank, place.ranks) == (0, 1)


def test_a_step_of_fewer_tasks_than_the_job_counts_its_own() -> None:
    environ = {**SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
    assert find_place(environ, HINTS, project="p").ranks == 2


def test_tasks_of_an_array_are_runs_of_their_own() -> None:
    environ = {**SRUN, "SLURM_ARRAY_JOB_ID": "90", "SLURM_ARRAY_TASK_ID": "6"}
    assert find_place(environ, HINTS, project="p").run == "slurm-90_6-0"


def test_a_requeue_is_a_later_attempt_than_all_restarts_before_it() -> None:
    requeued = find_place({**SRUN, "SLURM_RESTART_COUNT": "2"}, HINTS, project="p")
    assert requeued.attempt == 3
    restarted = find_place(TORCHRUN, HINTS, project="p")
    both = find_place(
        {**TORCHRUN, "SLURM_RESTART_COUNT": "1", "TORCHELASTIC_RESTART_COUNT": "0"},
        HINTS,
        project="p",
    )
    assert both.attempt > restarted.attempt


@pytest.mark.parametrize(
    "environ",
    [
        {"RANK": "1"},
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "0"},
        {"SLURM_STEP_ID": "0", "SLURM_PROCID": "a", "SLURM_NTASKS": "4"},
    ],
)
def test_variables_of_others_that_make_no_sense_are_passed_over(environ: dict[str, str]) -> None:
    place = find_place(environ, HINTS, project="p")
    assert (place.rank, place.ranks) == (0, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRAINBUS_RANK", "-1"),
        ("TRAINBUS_RANK", "x"),
        ("TRAINBUS_WORLD", "0"),
        ("TRAINBUS_NODES", "two"),
        ("TRAINBUS_ATTEMPT", "0"),
        ("TRAINBUS_ATTEMPT", "1.5"),
    ],
)
def test_a_malformed_variable_of_ours_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is a whole number"):
        find_place({name: value}, HINTS, project="p")


def test_a_rank_outside_its_world_is_an_error() -> None:
    with pytest.raises(ConfigError, match="rank 2 is not below 2"):
        find_place({}, HINTS, project="p", run="r", rank=2, ranks=2)


@pytest.mark.parametrize("rank", [-1, 1.5, "0", True])
def test_a_rank_that_is_none_is_an_error(rank: object) -> None:
    with pytest.raises(ConfigError, match="rank is a whole number from 0"):
        find_place({}, HINTS, project="p", rank=rank)  # type: ignore[arg-type]  # the point


def test_no_project_is_an_error_that_names_both_ways_out() -> None:
    with pytest.raises(ConfigError, match=r"start_run\(project=…\) or set TRAINBUS_PROJECT"):
        find_place({}, HINTS)


def test_more_nodes_than_ranks_are_not_believed() -> None:
    assert find_place({}, HINTS, project="p", run="r", ranks=2, nodes=5).nodes == 2


def test_two_clusters_count_their_jobs_alike_and_are_told_apart() -> None:
    runs = {
        find_place({**SRUN, **cluster}, HINTS, project="p").run
        for cluster in ({}, {"SLURM_CLUSTER_NAME": "a"}, {"SLURM_CLUSTER_NAME": "b"})
    }
    assert runs == {"slurm-99-0", "slurm-a-99-0", "slurm-b-99-0"}


def test_parts_of_a_heterogeneous_job_have_no_id_in_common() -> None:
    with pytest.raises(ConfigError, match="set TRAINBUS_RUN_ID"):
        find_place({**SRUN, "SLURM_HET_SIZE": "2"}, HINTS, project="p")


ONE_TASK = {**SRUN, "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_NNODES": "1"}
ONE_NODE = {**TORCHRUN, "LOCAL_WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "none"}
STEP = {"SLURM_JOB_ID": "99", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}


def test_a_task_of_a_step_continues_its_run_after_a_requeue() -> None:
    place = find_place({**ONE_TASK, "SLURM_RESTART_COUNT": "1"}, TASK, project="p")
    assert (place.run, place.attempt) == ("slurm-99-0", 2)
    torchrun = find_place({**ONE_NODE, **STEP}, TASK, project="p")
    assert torchrun.run == "slurm-99-0"


def test_what_the_shell_of_a_step_starts_is_one_run_each() -> None:
    in_shell = HINTS._replace(find_parent=lambda *_: Parent("job-1", LAUNCHER))
    assert find_place(ONE_TASK, in_shell, project="p").run == "new"
    assert find_place({**ONE_NODE, **STEP}, HINTS, project="p").run == "job-1"


def test_a_rendezvous_id_of_its_own_names_the_run_on_one_machine_too() -> None:
    environ = {**ONE_NODE, "TORCHELASTIC_RUN_ID": "exp7"}
    assert find_place(environ, HINTS, project="p").run == "torchrun-exp7"
    shrunk = {**environ, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    assert find_place(shrunk, HINTS, project="p").run == "torchrun-exp7"


OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
KEY = {"OMPI_MCA_orte_precondition_transports": "0b679e7fc69b77e3-d2df51642992b756"}
HYDRA = {
    "PMI_RANK": "3",
    "PMI_SIZE": "4",
    "MPI_LOCALRANKID": "1",
    "MPI_LOCALNRANKS": "2",
}


@pytest.mark.parametrize("environ", [OPEN_MPI, HYDRA])
def test_mpi_gives_rank_world_nodes_and_local_rank(environ: dict[str, str]) -> None:
    place = find_place({**SRUN, **environ}, HINTS, project="p", run="r")
    assert (place.rank, place.ranks, place.nodes, place.local_rank) == (3, 4, 2, 1)


@pytest.mark.parametrize(
    ("environ", "local", "advice"),
    [
        (OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE", "mpirun -x TRAINBUS_RUN_ID"),
        (HYDRA, "MPI_LOCALNRANKS", "mpiexec -genv TRAINBUS_RUN_ID"),
    ],
)
def test_mpi_on_one_machine_is_one_run_and_on_several_says_how_to_name_it(
    environ: dict[str, str], local: str, advice: str
) -> None:
    assert find_place({**environ, local: "4"}, HINTS, project="p").run == "job-1"
    with pytest.raises(ConfigError, match=advice):
        find_place(environ, HINTS, project="p")


def test_the_key_of_an_mpirun_names_its_run_on_all_nodes() -> None:
    first = find_place({**OPEN_MPI, **KEY}, HINTS, project="p").run
    # mpirun starts the ranks on other nodes by a step of its own.
    remote = {**OPEN_MPI, **KEY, "OMPI_COMM_WORLD_RANK": "0", **STEP}
    assert find_place(remote, HINTS, project="p").run == first
    assert first.startswith("mpi-")
    assert KEY["OMPI_MCA_orte_precondition_transports"][:8] not in first


def test_pmi_within_a_step_leaves_it_to_slurm() -> None:
    environ = {**SRUN, "PMI_RANK": "3", "PMI_SIZE": "4"}
    assert find_place(environ, HINTS, project="p").run == "slurm-99-0"


def test_a_pod_of_an_indexed_job_is_a_rank_where_the_world_is_known() -> None:
    pod = {"JOB_COMPLETION_INDEX": "2"}
    assert find_place(pod, HINTS, project="p").run == "new"
    with pytest.raises(ConfigError, match="controller-uid"):
        find_place({**pod, "WORLD_SIZE": "3"}, HINTS, project="p")
    named = {**pod, "WORLD_SIZE": "3", "TRAINBUS_RUN_ID": "uid"}
    place = find_place(named, HINTS, project="p")
    assert (place.run, place.rank, place.ranks, place.nodes) == ("uid", 2, 3, 3)


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({"NODE_RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}, 1),
        ({"NODE_RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, 3),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "NUM_NODES": "2"}, 2),
    ],
)
def test_node_and_local_rank_make_a_rank(environ: dict[str, str], rank: int) -> None:
    place = find_place(environ, HINTS, project="p", run="r")
    assert (place.rank, place.ranks) == (rank, 4)


def test_a_rank_that_cannot_be_told_is_an_error_unless_it_is_given() -> None:
    environ = {"NODE_RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}
    with pytest.raises(ConfigError, match=r"NODE_RANK=1 .* TRAINBUS_RANK"):
        find_place(environ, HINTS, project="p", run="r")
    assert find_place(environ, HINTS, project="p", run="r", rank=2).rank == 2


def test_processes_that_a_long_living_program_starts_need_a_name() -> None:
    environ = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with pytest.raises(ConfigError, match="set TRAINBUS_RUN_ID"):
        find_place(environ, HINTS, project="p")
    assert find_place({**environ, "CROSS_RANK": "0"}, HINTS, project="p").run == "job-1"


def test_rank_0_that_publishes_alone_publishes_to_the_run_of_the_job() -> None:
    lead = {**TORCHRUN, "RANK": "0"}
    assert find_place(lead, HINTS, project="p", rank=0, ranks=1).run == "torchrun-exp7"
    assert find_place(TORCHRUN, HINTS, project="p", rank=0, ranks=1).run == "new"


def test_the_wrappers_run_is_that_of_one_machine_alone() -> None:
    wrapped = {"TRAINBUS_WRAPPER_RUN_ID": "w"}
    alone = find_place(wrapped, HINTS, project="p")
    assert (alone.run, alone.origin, alone.claimant) == ("w", "wrapper", "")
    assert find_place({**wrapped, "TRAINBUS_RUN_ID": "mine"}, HINTS, project="p").run == "mine"
    together = find_place({**wrapped, **ONE_NODE}, HINTS, project="p")
    assert (together.run, together.claimant) == ("w", "job-1")
    assert find_place({**wrapped, **TORCHRUN}, HINTS, project="p").run == "torchrun-exp7"
    with pytest.raises(ConfigError, match="--rdzv-id"):
        find_place({**wrapped, **TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}, HINTS, project="p")


def test_ranks_that_the_task_of_each_node_starts_count_by_themselves() -> None:
    inner = {"RANK": "13", "WORLD_SIZE": "16", "MASTER_ADDR": "gpu1", "LOCAL_RANK": "5"}
    place = find_place({**SRUN, **inner}, HINTS, project="p")
    assert (place.rank, place.ranks, place.local_rank, place.run) == (13, 16, 5, "slurm-99-0")
    # Said once more, as many scripts do, it is the step's world.
    same = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "gpu1"}
    place = find_place({**SRUN, **same}, HINTS, project="p")
    assert (place.rank, place.ranks, place.nodes, place.run) == (3, 4, 2, "slurm-99-0")


def test_trainings_beside_each_other_in_a_step_are_runs_of_their_own() -> None:
    alone = {"RANK": "0", "WORLD_SIZE": "1"}
    assert find_place({**SRUN, **alone}, HINTS, project="p").run == "new"
    environ = {**SRUN, **ONE_NODE, **alone, "LOCAL_WORLD_SIZE": "1"}
    in_step = HINTS._replace(find_parent=lambda *_: Parent("job-1", LAUNCHER))
    assert find_place(environ, in_step, project="p").run == "job-1"
    # A torchrun for each of two tasks.
    beside = {**ONE_NODE, **STEP, "SLURM_NTASKS": "2"}
    assert find_place(beside, TASK, project="p").run == "job-1"
