"""Which ranks write, and under which name: per call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from publishers import Run, start_run
from tests.fixtures.spool import Spool


def start(rank: int) -> Run:
    return start_run("p", run_id="r", rank=rank, world=3)


@pytest.mark.parametrize(
    ("rank", "choice", "written"),
    [
        (0, {}, "loss"),
        (0, {"rank_zero_only": True}, "loss"),
        (0, {"all_ranks": True}, "loss"),
        (2, {}, "rank2/loss"),
        (2, {"rank_zero_only": True}, None),
        (2, {"all_ranks": True}, "loss"),
    ],
)
def test_what_ranks_measure_goes_under_the_name_that_the_call_chooses(
    spool: Spool, rank: int, choice: dict[str, bool], written: str | None
) -> None:
    run = start(rank)
    run.log({"loss": 0.5}, 3, **choice)
    run.summary({"loss": 0.5}, **choice)
    run.image("loss", "a", b"\x89PNG\r\n\x1a\n", **choice)
    run.plot("loss", "a", b"\x89PNG\r\n\x1a\n", **choice)
    names = [] if written is None else [written]
    assert [list(values) for _, values in spool.points()] == [[name] for name in names]
    assert [list(data["values"]) for data in spool.data("summary")] == [[name] for name in names]
    for kind in ("image", "plot"):
        assert [data["title"] for data in spool.data(kind)] == names
    assert run.dropped == {}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("params", lambda run, _, **choice: run.params({"lr": 1}, **choice)),
        ("tags", lambda run, _, **choice: run.tags({"a": "b"}, **choice)),
        ("artifact", lambda run, path, **choice: run.artifact(path, **choice)),
        ("checkpoint", lambda run, path, **choice: run.checkpoint(path, **choice)),
        ("model", lambda run, path, **choice: run.model(path, name="m", **choice)),
        ("phase", lambda run, _, **choice: run.phase("train", "started", **choice)),
    ],
)
def test_what_is_of_the_whole_run_is_written_by_all_ranks_or_the_first(
    spool: Spool, tmp_path: Path, rank: int, kind: str, call: Callable[..., Any]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    run = start(rank)
    call(run, path)
    assert len(spool.data(kind)) == 1
    call(run, path, rank_zero_only=True)
    assert len(spool.data(kind)) == (1 if rank else 2)
    assert run.dropped == {}


def test_steps_that_nobody_names_are_the_same_on_all_ranks(spool: Spool) -> None:
    for rank in (0, 1):
        run = start(rank)
        run.log({"a": 1.0}, rank_zero_only=True)
        run.log({"b": 1.0})
        run.log({"a": 1.0}, 10, rank_zero_only=True)
        run.log({"b": 1.0})
    first, second = (spool.points(source) for source in spool.sources())
    steps = [step for step, values in first if "b" in values]
    assert steps == [step for step, values in second if "rank1/b" in values] == [1, 11]


def test_a_name_has_to_leave_room_for_the_rank(spool: Spool) -> None:
    run = start(1)
    run.summary({"x" * 1024: 1.0, "y": 2.0})
    assert [list(data["values"]) for data in spool.data("summary")] == [["rank1/y"]]
    assert run.dropped == {"bad_value": 1}
