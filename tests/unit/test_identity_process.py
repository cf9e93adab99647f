"""Who a process is among real ones: what has launched it, and which runs are its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from bus.errors import ConfigError
from publishers import start_run
from publishers.claims import claim_run, forget_claims
from publishers.hints import find_parent, read_hints
from tests.fixtures.spool import Spool

ASK = "from publishers.hints import find_parent; print(*find_parent('MARK', 0))"


def write_process(proc: Path, process: int, parent: int, start: int, *environ: str) -> None:
    folder = proc / str(process)
    folder.mkdir(parents=True)
    # The name of a program may look like the end of the field.
    fields = " ".join(["S", str(parent), *map(str, range(17)), str(start), "0"])
    (folder / "stat").write_text(f"{process} (a) b c) {fields}\n")
    (folder / "environ").write_bytes("\0".join([*environ, ""]).encode())


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("boot\n")
    write_process(tmp_path, 1, 0, 1)
    write_process(tmp_path, 10, 1, 500, "A=1", "MARKED=1")
    write_process(tmp_path, 11, 10, 501, "MARK=0")
    write_process(tmp_path, 12, 11, 502, "MARK=0")
    write_process(tmp_path, 13, 10, 503, "A=1", "MARK=1")
    return tmp_path


def test_the_launcher_is_the_first_above_without_the_variable(proc: Path) -> None:
    behind_a_shell, direct = find_parent("MARK", 12, proc), find_parent("MARK", 13, proc)
    assert (behind_a_shell.process, direct.process) == (10, 10)
    assert (behind_a_shell.is_direct, direct.is_direct) == (False, True)
    assert behind_a_shell.job == direct.job


def test_another_launcher_is_another_job(proc: Path) -> None:
    write_process(proc, 20, 1, 600)
    write_process(proc, 21, 20, 601, "MARK=0")
    first, second = find_parent("MARK", 11, proc).job, find_parent("MARK", 21, proc).job
    # The same process id again, later.
    (proc / "20" / "stat").unlink()
    (proc / "20" / "environ").unlink()
    (proc / "20").rmdir()
    write_process(proc, 20, 1, 700)
    assert len({first, second, find_parent("MARK", 21, proc).job}) == 3


def test_a_process_of_another_user_is_a_launcher(proc: Path) -> None:
    (proc / "10" / "environ").unlink()
    assert find_parent("MARK", 13, proc).process == 10


def test_without_proc_there_is_no_launcher(tmp_path: Path) -> None:
    found = find_parent("MARK", 12, tmp_path)
    assert (found.job, found.process, found.is_direct) == ("", 0, False)
    # Nothing is below the first process of a container.
    write_process(tmp_path, 5, 0, 1, "MARK=1")
    assert find_parent("MARK", 5, tmp_path).job == ""


def test_every_process_gets_a_run_of_its_own() -> None:
    first, second = read_hints(), read_hints()
    assert first.new_run != second.new_run


def test_real_children_find_the_same_launcher_through_a_shell() -> None:
    environ = {**os.environ, "MARK": "1"}
    direct = subprocess.run(
        [sys.executable, "-c", ASK], env=environ, capture_output=True, text=True
    )
    script = f'{sys.executable} -c "{ASK}"; true'
    shell = subprocess.run(["sh", "-c", script], env=environ, capture_output=True, text=True)
    assert direct.stdout.split()[1:] == [str(os.getpid()), "True"]
    assert shell.stdout.split() == [direct.stdout.split()[0], str(os.getpid()), "False"]


def test_each_start_of_a_process_is_a_run_of_its_own(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINBUS_RUN_ID", "search")
    first = start_run("p")
    open_still = start_run("p")
    first.finish(timeout=0.0)
    after_its_end = start_run("p")
    assert [run.id for run in (first, open_still, after_its_end)] == [
        "search",
        "search~2",
        "search~3",
    ]
    assert start_run("p", run_id="search").id == "search"
    assert len(spool.sources()) == 4


def test_a_call_that_is_refused_does_not_count(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINBUS_RUN_ID", "r")
    for notes, parent in (("x" * 100_000, None), ("", "")):
        with pytest.raises(ConfigError, match="start_run"):
            start_run("p", notes=notes, parent=parent)
    assert start_run("p").id == "r"


def runs_of(program: str, environs: Sequence[Mapping[str, str]], spool: Spool) -> list[list[str]]:
    """What processes print that run at the same time."""
    common = {**os.environ, "TRAINBUS_SPOOL": str(spool.folder)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program], env={**common, **environ}, stdout=subprocess.PIPE
        )
        for environ in environs
    ]
    return [child.communicate(timeout=60)[0].decode().split() for child in children]


TWICE = """
import publishers
for _ in 1, 2:
    run = publishers.start_run("p")
    print(run.id)
    run.finish(timeout=0.0)
"""


def test_all_ranks_count_alike(spool: Spool) -> None:
    slurm = {
        "SLURM_CLUSTER_NAME": "c",
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_NNODES": "2",
    }
    found = runs_of(TWICE, [{**slurm, "SLURM_PROCID": str(rank)} for rank in (0, 1)], spool)
    assert found == [["slurm-c-7-0", "slurm-c-7-0~2"]] * 2


def test_the_trainings_of_a_command_share_out_the_wrappers_runs(spool: Spool) -> None:
    found = runs_of(TWICE, [{"TRAINBUS_WRAPPER_RUN_ID": "w"}] * 3, spool)
    runs = [run for one in found for run in one]
    assert sorted(runs) == ["w", *(f"w~{number}" for number in range(2, 7))]


def test_the_ranks_of_one_launcher_in_a_command_share_a_run(spool: Spool) -> None:
    ranks = [
        {
            "TRAINBUS_WRAPPER_RUN_ID": "w",
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "TORCHELASTIC_RUN_ID": "none",
        }
        for rank in (0, 1)
    ]
    claim_run(spool.folder, "w")
    assert runs_of(TWICE, ranks, spool) == [["w~2", "w~3"]] * 2


def test_who_claims_again_gets_the_same_run(tmp_path: Path) -> None:
    assert [claim_run(tmp_path, "w", one) for one in ("a", "b", "a", "")] == [
        "w",
        "w~2",
        "w",
        "w~3",
    ]
    assert claim_run(tmp_path, "v", "b") == "v"
    forget_claims(tmp_path, "w")
    assert claim_run(tmp_path, "w", "b") == "w"
    forget_claims(tmp_path, "w")
    forget_claims(tmp_path, "w")


def test_many_threads_claim_each_run_once(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(claim_run(tmp_path, "w"))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 20
    # Nothing but the claims is left.
    (folder,) = (tmp_path / "claims").iterdir()
    assert sorted(int(path.name) for path in folder.iterdir()) == list(range(1, 21))


def test_a_spool_that_cannot_be_written_costs_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert claim_run(tmp_path / "file", "w") == "w"
    assert claim_run(tmp_path / "file", "w" * 600) == "w" * 600
