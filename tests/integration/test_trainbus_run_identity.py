"""``trainbus run`` and the runs of what it starts, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.spool import Spool

TRAINBUS = str(Path(sys.executable).with_name("trainbus"))
TRAIN = "import publishers\nfor _ in 1, 2: publishers.start_run().finish(timeout=0)"
PYTHON = f'{sys.executable} -c "{TRAIN}"; '
RANKS = "".join(
    f"RANK={rank} WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 TORCHELASTIC_RUN_ID=none {PYTHON[:-2]} & "
    for rank in (0, 1)
)


@pytest.fixture
def environ(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("TRAINBUS_PROJECT", "digits")
    return dict(os.environ)


def runs_of(spool: Spool) -> list[str]:
    return sorted(spool.payloads(source)[0]["run"] for source in spool.sources())


def run(environ: dict[str, str], *command: str) -> None:
    whole = [TRAINBUS, "run", *command]
    done = subprocess.run(whole, env=environ, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_each_training_of_a_script_is_a_run_of_its_own(
    environ: dict[str, str], spool: Spool
) -> None:
    run(environ, "--", "bash", "-c", PYTHON * 2)
    first = runs_of(spool)[0]
    assert runs_of(spool) == [first, f"{first}~2", f"{first}~3", f"{first}~4"]
    assert list((spool.folder / "claims").iterdir()) == []


def test_a_wrapper_within_shares_the_runs_of_the_one_around(
    environ: dict[str, str], spool: Spool
) -> None:
    run(environ, "--", "bash", "-c", PYTHON + f"{TRAINBUS} run -- {PYTHON}" * 2)
    first = runs_of(spool)[0]
    assert runs_of(spool) == [first, *(f"{first}~{number}" for number in range(2, 7))]


def test_ranks_share_each_of_their_runs(environ: dict[str, str], spool: Spool) -> None:
    run(environ, "--", "bash", "-c", RANKS + "wait")
    first = runs_of(spool)[0]
    assert runs_of(spool) == [first, first, f"{first}~2", f"{first}~2"]


def test_launchers_one_after_the_other_have_runs_of_their_own(
    environ: dict[str, str], spool: Spool
) -> None:
    launch = f"bash -c '{RANKS}wait'; "
    run(environ, "--", "bash", "-c", launch.replace('"', '\\"').replace("'", '"') * 2)
    runs = runs_of(spool)
    first = runs[0]
    names = [first, *(f"{first}~{number}" for number in range(2, 5))]
    assert runs == sorted(names * 2)


def test_a_name_that_a_person_gives_is_that_of_every_process(
    environ: dict[str, str], spool: Spool
) -> None:
    run(environ, "--run-id", "mine", "--", "bash", "-c", PYTHON * 2)
    assert runs_of(spool) == ["mine", "mine", "mine~2", "mine~2"]
