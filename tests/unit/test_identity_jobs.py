"""Of jobs and their ranks: one id for all ranks of one, and never one id for two."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hypothesis import assume, given
from hypothesis import strategies as st

from bus.errors import ConfigError
from publishers.counting import Counter
from publishers.environment import Hints, Parent, Place, find_place
from tests.fixtures.spool import Spool

NAMES = st.text("abz019-_~%.", min_size=1, max_size=6)
NUMBERS = st.integers(0, 12).map(str)


class Job(NamedTuple):
    """What tells one job from another, and how wide it is."""

    launcher: str
    parent: str
    cluster: str
    number: str
    step: str
    rendezvous: str
    nodes: int
    width: int

    def rank(self, node: int, local: int) -> tuple[dict[str, str], Hints]:
        """The surroundings of one rank."""
        rank, ranks = node * self.width + local, self.nodes * self.width
        make = {"slurm": self._slurm, "torchrun": self._torchrun, "both": self._both}
        environ = make[self.launcher](str(rank), str(ranks), str(node))
        environ |= {"LOCAL_RANK": str(local), "SLURM_LOCALID": str(local)}
        # On each node another launcher starts the ranks.
        parent = Parent(f"job-{self.parent}-{node}", 1 + node, is_direct=True)
        return environ, Hints("box", f"new-{self.parent}-{rank}", lambda *_: parent)

    def runs(self) -> set[str] | None:
        """The ids that its ranks come to; None where they are told to set one."""
        found = set()
        for node in range(self.nodes):
            for local in range(self.width):
                environ, hints = self.rank(node, local)
                try:
                    found.add(find_place(environ, hints, project="p").run)
                except ConfigError:
                    found.add("")
        return None if found == {""} else found

    def _slurm(self, rank: str, ranks: str, _: str) -> dict[str, str]:
        return {
            "SLURM_CLUSTER_NAME": self.cluster,
            "SLURM_JOB_ID": self.number,
            "SLURM_STEP_ID": self.step,
            "SLURM_PROCID": rank,
            "SLURM_NTASKS": ranks,
            "SLURM_NNODES": str(self.nodes),
        }

    def _torchrun(self, rank: str, ranks: str, _: str) -> dict[str, str]:
        return {
            "RANK": rank,
            "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": str(self.width),
            "GROUP_WORLD_SIZE": str(self.nodes),
            "TORCHELASTIC_RUN_ID": self.rendezvous,
        }

    def _both(self, rank: str, ranks: str, node: str) -> dict[str, str]:
        return self._slurm(node, str(self.nodes), "") | self._torchrun(rank, ranks, "")

    @property
    def identity(self) -> tuple[str, ...]:
        """What the launchers themselves tell jobs apart by; empty for a lone torchrun."""
        slurm = (self.cluster, self.number, self.step) if self.launcher != "torchrun" else ()
        has_rendezvous = self.launcher != "slurm" and self.rendezvous != "none"
        return (*slurm, "rendezvous", self.rendezvous) if has_rendezvous else slurm


JOBS = st.builds(
    Job,
    launcher=st.sampled_from(["slurm", "torchrun", "both"]),
    parent=NUMBERS,
    # As SLURM's own rules for names have it.
    cluster=st.text("abz019-_", max_size=6),
    number=NUMBERS,
    step=NUMBERS,
    rendezvous=NAMES | st.just("none"),
    nodes=st.integers(1, 3),
    width=st.integers(1, 3),
)


@given(JOBS)
def test_all_ranks_of_one_job_come_to_one_run(job: Job) -> None:
    runs = job.runs()
    if runs is None:
        assert job.launcher == "torchrun"
        assert job.rendezvous == "none"
        assert job.nodes > 1
    else:
        assert len(runs) == 1


@given(JOBS, JOBS)
def test_two_jobs_never_come_to_one_run(first: Job, second: Job) -> None:
    assume(first.identity != second.identity or first.identity == ())
    # Nothing but the parent tells jobs without an id apart.
    assume(first.parent != second.parent)
    runs = first.runs(), second.runs()
    assume(runs[0] is not None and runs[1] is not None)
    assert not (runs[0] or set()) & (runs[1] or set())


def place(run: str, **more: str) -> Place:
    environ = {"TRAINBUS_RUN_ID": run, **more}
    return find_place(environ, Hints("box", "new"), project="p")


@given(st.lists(st.tuples(NAMES.filter(lambda name: "~" not in name)), max_size=12), st.data())
def test_the_order_of_the_calls_decides_and_not_the_rank(
    calls: list[tuple[str]], data: st.DataObject
) -> None:
    spool = Path("unused")
    ranks = [Counter() for _ in range(data.draw(st.integers(1, 4)))]
    runs = [[rank.number(place(run), spool).run for (run,) in calls] for rank in ranks]
    assert all(one == runs[0] for one in runs)
    assert len(set(runs[0])) == len(calls)


def test_a_name_that_was_given_stays_and_one_that_is_the_id_follows_it(spool: Spool) -> None:
    counter = Counter()
    counter.number(place("r"), spool.folder)
    second = counter.number(place("r"), spool.folder)
    assert (second.run, second.name) == ("r~2", "r~2")
    third = counter.number(place("r", TRAINBUS_RUN_NAME="mlp"), spool.folder)
    assert (third.run, third.name) == ("r~3", "mlp")


def test_a_run_id_of_the_call_is_neither_counted_nor_changed(spool: Spool) -> None:
    counter = Counter()
    given_id = find_place({}, Hints("box", "new"), project="p", run="r")
    assert [counter.number(given_id, spool.folder).run for _ in range(2)] == ["r", "r"]
    assert counter.number(place("r"), spool.folder).run == "r"
