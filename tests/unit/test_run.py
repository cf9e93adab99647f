from __future__ import annotations

import argparse
import logging
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

import publishers
from bus.config import Settings
from bus.errors import ConfigError, EventError
from bus.kinds import World
from bus.source import Source
from publishers import Run, start_run
from publishers.journal.format import parse_header
from tests.fixtures.spool import Spool


@pytest.fixture
def run(spool: Spool) -> Run:
    return start_run("digits", "mlp")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    path.write_bytes(b"weights")
    return path


def test_the_package_exports_what_training_code_needs() -> None:
    assert publishers.__all__ == ["Run", "__version__", "start_run"]


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = [
        "aiomqtt",
        "asyncio",
        "fsspec",
        "hashlib",
        "logging",
        "ssl",
        "subprocess",
        "tenacity",
        "typer",
    ]
    program = f"import sys, publishers; print(*(set(sys.modules) & set({heavy})))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == []


def test_the_header_says_whose_journal_it_is(spool: Spool, run: Run) -> None:
    header = parse_header(orjson.dumps(spool.payloads()[0]))
    source = Source.parse(header.source)
    assert (header.run, header.project, header.run_name) == (run.id, "digits", "mlp")
    assert header.pid == os.getpid()
    assert header.source == run.source
    assert spool.sources()[0].name == f"0-{source.incarnation}"


def test_run_started_describes_the_process(spool: Spool) -> None:
    start_run(
        "p",
        run_id="r",
        tags={"seed": 1},  # type: ignore[dict-item]  # people do
        notes="a *note*",
        parent="sweep",
        framework="sklearn",
        config={"path": Path("x")},
        sinks=["mlflow"],
        options={"mlflow": {"a": 1}},
        rank=1,
        world=World(nodes=2, ranks=4),
        node="n",
        attempt=2,
    )
    (record,) = spool.records("run_started")
    data = record["data"]
    assert abs(record["time"] - time.time()) < 60
    assert data["host"]
    assert data["program"]
    expected = {
        "rank": 1,
        "attempt": 2,
        "world": {"nodes": 2, "ranks": 4},
        "tags": {"seed": "1"},
        "notes": "a *note*",
        "parent": "sweep",
        "framework": "sklearn",
        "config": {"path": "x"},
        "sinks": ["mlflow"],
        "options": {"mlflow": {"a": 1}},
    }
    assert {key: data[key] for key in expected} == expected
    assert spool.sources()[0].name.startswith("1-2-")


def test_params_of_the_start_come_from_rank_0_alone(spool: Spool) -> None:
    start_run("p", run_id="r", params={"lr": 0.1}, world=2, rank=0)
    start_run("p", run_id="r", params={"lr": 0.1}, world=2, rank=1)
    first, second = spool.sources()
    assert [r["data"] for r in spool.records("params", first)] == [
        {"section": "General", "params": {"lr": 0.1}}
    ]
    assert spool.records("params", second) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no project"),
        ({"project": "p", "rank": -1}, "rank is a whole number from 0"),
        ({"project": "p", "world": 2}, "set TRAINBUS_RUN_ID"),
        ({"project": "p", "world": "2", "run_id": "r"}, "world is a whole number from 1"),
        ({"project": "p", "tags": ["a"]}, "tags"),
        ({"project": "p", "config": 1}, "config"),
        ({"project": "p", "sinks": "mlflow"}, "sinks"),
        ({"project": "p", "options": {"mlflow": 1}}, "options"),
        ({"project": "p", "notes": 1}, "notes"),
        ({"project": "p", "notes": "x" * 100_000}, "notes is over"),
        ({"project": "p", "parent": ""}, "parent"),
        ({"project": "\ud800"}, "project"),
        ({"project": "p", "run_id": "x" * 2000}, "run"),
        ({"project": "p", "node": "\ud800"}, "node"),
        ({"project": 1}, "project"),
        ({"project": "p", "name": 1}, "name"),
        ({"project": "p", "name": "\ud800"}, "name"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(
    spool: Spool, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        start_run(**arguments)
    assert spool.sources() == []


def test_a_malformed_variable_is_an_error(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINBUS_SHIPPER", "maybe")
    with pytest.raises(ConfigError, match="TRAINBUS_SHIPPER is auto or off"):
        start_run("p")


def test_settings_may_be_given_in_code(spool: Spool, tmp_path: Path) -> None:
    settings = Settings.from_environment({"TRAINBUS_SPOOL": str(tmp_path / "other")})
    start_run("p", settings=settings)
    assert spool.sources() == []
    assert len(Spool(tmp_path / "other").sources()) == 1


def test_log_writes_rows(spool: Spool, run: Run) -> None:
    run.log({"loss": 0.5})
    run.log({"loss": math.nan}, step=7)
    run.log({"loss": 0.25})
    assert spool.points() == [(0, {"loss": 0.5}), (7, {"loss": "NaN"}), (8, {"loss": 0.25})]


def test_params_take_anything(spool: Spool, run: Run) -> None:
    run.params({"lr": 0.1, "path": Path("a"), "nan": math.nan, 3: [1, {2}]})  # type: ignore[dict-item]  # people do
    run.params(argparse.Namespace(batch=8), section="Args")  # type: ignore[arg-type]  # people do
    assert spool.data("params") == [
        {"section": "General", "params": {"lr": 0.1, "path": "a", "nan": "NaN", "3": [1, [2]]}},
        {"section": "Args", "params": {"batch": 8}},
    ]


def test_summary_and_tags(spool: Spool, run: Run) -> None:
    run.summary({"accuracy": 0.97, "best": True, "odd": "x"})
    run.tags({"stage": "final", "seed": 3})  # type: ignore[dict-item]  # people do
    assert spool.data("summary") == [{"values": {"accuracy": 0.97, "best": 1}}]
    assert spool.data("tags") == [{"set": {"stage": "final", "seed": "3"}}]
    assert run.dropped == {"bad_value": 1}


def test_an_empty_mapping_writes_nothing(spool: Spool, run: Run) -> None:
    before = len(spool.payloads())
    run.params({})
    run.summary({})
    run.tags({})
    run.log({})
    assert len(spool.payloads()) == before


def test_an_artifact_is_a_copy_beside_its_record(spool: Spool, run: Run, file: Path) -> None:
    run.artifact(file)
    run.artifact(str(file), name="/weights/./first.pt")
    file.write_bytes(b"changed")
    first, second = spool.records("artifact")
    assert first["data"] == {"path": "last.pt"}
    assert second["data"] == {"path": "weights/first.pt"}
    assert second["blob"]["name"] == "first.pt"
    assert spool.blob(first).read_bytes() == spool.blob(second).read_bytes() == b"weights"


def test_an_artifact_stays_below_the_runs_folder(spool: Spool, run: Run, file: Path) -> None:
    run.artifact(file, name="../x")
    assert spool.records("artifact") == []
    assert run.dropped == {"bad_value": 1}


def test_a_checkpoint_says_which(spool: Spool, run: Run, file: Path) -> None:
    run.checkpoint(file, epoch=3, fitness=0.7, best=True)
    run.checkpoint(file, fitness=math.inf, final=True)
    assert spool.data("checkpoint") == [
        {"best": True, "final": False, "epoch": 3, "fitness": 0.7},
        {"best": False, "final": True, "fitness": "Infinity"},
    ]


def test_a_model_is_a_folder_or_a_file(spool: Spool, run: Run, file: Path, tmp_path: Path) -> None:
    class Signature:
        def to_dict(self) -> dict[str, str]:
            return {"inputs": "[]"}

    folder = tmp_path / "best_model"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {}")
    run.model(folder, "mlp", signature=Signature(), metrics={"acc": 0.9}, registered_name="m")
    run.model(file, "mlp", flavor="torch")
    first, second = spool.records("model")
    assert first["data"] == {
        "name": "mlp",
        "flavor": "mlflow",
        "signature": {"inputs": "[]"},
        "metrics": {"acc": 0.9},
        "registered_name": "m",
    }
    assert first["blob"]["is_folder"]
    assert second["data"] == {"name": "mlp", "flavor": "torch"}


def test_a_phase_begins_and_ends(spool: Spool, run: Run) -> None:
    run.phase("train", "started", {"epochs": 3})
    run.phase("sleep", "started")
    assert spool.data("phase") == [{"phase": "train", "state": "started", "args": {"epochs": 3}}]
    assert run.dropped == {"bad_value": 1}


def test_a_missing_file_is_a_warning(
    spool: Spool, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        run.artifact("/nowhere/a")
    run.checkpoint("/nowhere/b")
    run.model("/nowhere/c", "m")
    run.image("t", "s", "/nowhere/d")
    assert run.dropped == {"missing_file": 5}
    assert len(caplog.records) == 4
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize(
    "call",
    [
        lambda run: run.log(None),
        lambda run: run.log({"a": 1}, step=object()),
        lambda run: run.params(3),
        lambda run: run.params(None),
        lambda run: run.params({"a": 1}, section=""),
        lambda run: run.params({"a": 1}, section=7),
        lambda run: run.summary(None),
        lambda run: run.tags([("a", "b")]),
        lambda run: run.image("t", "s", object()),
        lambda run: run.image("", "s", b"\x89PNG\r\n\x1a\n"),
        lambda run: run.image(None, None, b"\x89PNG\r\n\x1a\n"),
        lambda run: run.image("t", "s", b"\x89PNG\r\n\x1a\n", step="x"),
        lambda run: run.plot("t", "s", 3),
        lambda run: run.artifact(None),
        lambda run: run.artifact(b"\0"),
        lambda run: run.checkpoint(__file__, epoch=1.5),
        lambda run: run.checkpoint(__file__, fitness="high"),
        lambda run: run.model(__file__, None),
        lambda run: run.model(__file__, "m", registered_name=3),
        lambda run: run.model(__file__, "m", signature=3),
        lambda run: run.phase(1, 2),
        lambda run: run.phase("train", "started", 5),
    ],
)
def test_no_odd_argument_reaches_the_training(spool: Spool, run: Run, call: Any) -> None:
    before = len(spool.records())
    call(run)
    assert sum(run.dropped.values()) == 1
    assert list((spool.sources()[0] / "blobs").iterdir()) == []
    assert len(spool.records()) == before
    run.log({"a": 1.0}, step=5)
    assert spool.points() == [(5, {"a": 1.0})]


def test_strict_raises_for_odd_values(spool: Spool) -> None:
    run = start_run("p", strict=True)
    with pytest.raises(EventError, match="metrics"):
        run.log({"a": "x"})
    with pytest.raises(EventError, match="summary"):
        run.summary({"a": "x"})
    with pytest.raises(EventError, match="image t/s"):
        run.image("t", "s", object())
    with pytest.raises(EventError, match="phase"):
        run.phase("sleep", "started")


def test_training_goes_on_where_the_spool_cannot_be_made(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAINBUS_SPOOL", str(tmp_path / "file" / "spool"))
    with start_run("p", params={"a": 1}) as run:
        for _ in range(10):
            run.log({"a": 1.0})
        run.artifact(__file__)
        run.image("t", "s", b"\x89PNG\r\n\x1a\n")
    assert run.finish() is False
    # run_started, params, ten rows and two files.
    assert run.dropped == {"no_spool": 14}
    assert len(caplog.messages) == 1
    assert "set TRAINBUS_SPOOL" in caplog.messages[0]


def test_several_threads_log_into_one_run(spool: Spool, run: Run) -> None:
    def work(number: int) -> None:
        for step in range(200):
            run.log({f"t{number}": step}, step)
            if step % 50 == 0:
                run.params({f"p{number}.{step}": step})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    points = spool.points()
    for number in range(4):
        steps = [step for step, values in points if f"t{number}" in values]
        assert steps == list(range(200))
    assert len(spool.records("params")) == 16
    assert run.dropped == {}


def test_starting_a_run_is_fast(spool: Spool) -> None:
    start_run("p")
    start = time.perf_counter()
    start_run("p")
    assert time.perf_counter() - start < 0.25


def test_a_run_starts_in_a_folder_that_was_removed(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    start_run("p")
    assert spool.data("run_started")[0]["git"] is None
    monkeypatch.undo()
