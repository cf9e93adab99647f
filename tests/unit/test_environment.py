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
