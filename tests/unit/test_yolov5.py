from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bus.control import StopNotice
from publishers.integrations import yolov5
from publishers.integrations.ultralytics import ending, guard
from publishers.integrations.yolov5 import KEYS, install, register
from publishers.stopping import StopSign
from tests.fixtures.spool import Spool
from tests.fixtures.yolotrainer import JPEG, PNG
from tests.fixtures.yolov5trainer import Callbacks, train_v5


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that names no folder keeps its record where it runs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(guard.warnings, "_warned", set())
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    yield
    for _, training in list(ending._under_way.values()):
        ending.forget(training)


@pytest.fixture
def callbacks() -> Callbacks:
    made = Callbacks()
    register(made, project="squares", finish_seconds=0.0)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs/train/exp7"


def test_an_epoch_is_a_row_of_the_13_values_and_its_fitness(
    callbacks: Callbacks, folder: Path, spool: Spool
) -> None:
    train_v5(callbacks, folder, [0.25, 0.75, 0.5])
    points = spool.points()
    assert [step for step, _ in points] == [0, 1, 2]
    assert list(points[1][1]) == [*KEYS, "fitness"]
    assert len(KEYS) == 13
    assert points[1][1]["metrics/mAP_0.5:0.95"] == 0.75
    assert points[1][1]["x/lr2"] == 0.03
    assert spool.data("run_finished")[0]["status"] == "completed"


def test_options_are_params_and_hyperparameters_have_a_section(
    callbacks: Callbacks, folder: Path, spool: Spool
) -> None:
    train_v5(callbacks, folder, [0.25], weights="yolov5s.pt")
    general, hyp = spool.data("params")
    assert (general["section"], hyp["section"]) == ("General", "Hyperparameters")
    assert general["params"]["weights"] == "yolov5s.pt"
    assert hyp["params"] == {"lr0": 0.01, "box": 0.05}
    assert spool.data("run_started")[0]["framework"] == "yolov5"
    assert spool.payloads()[0]["run_name"] == "exp7"


def test_checkpoints_and_the_final_model(callbacks: Callbacks, folder: Path, spool: Spool) -> None:
    train_v5(callbacks, folder, [0.25, 0.75, 0.5])
    records = spool.records("checkpoint")
    assert [one["data"] for one in records] == [
        {"best": True, "final": False, "epoch": 0, "fitness": 0.25},
        {"best": True, "final": False, "epoch": 1, "fitness": 0.75},
        {"best": False, "final": False, "epoch": 2, "fitness": 0.5},
        {"best": True, "final": True, "epoch": 1, "fitness": 0.75},
    ]
    assert spool.blob(records[3]).read_bytes() == b"weights of epoch 1"
    (final,) = spool.data("summary")
    assert final["values"]["metrics/mAP_0.5:0.95"] == 0.75
    assert len(final["values"]) == 7
    assert final["step"] == 3


def test_pictures_plots_and_files(callbacks: Callbacks, folder: Path, spool: Spool) -> None:
    folder.mkdir(parents=True)
    (folder / "train_batch0.jpg").write_bytes(JPEG)
    (folder / "val_batch2_pred.jpg").write_bytes(JPEG)
    (folder / "results.png").write_bytes(PNG)
    (folder / "results.csv").touch()
    train_v5(callbacks, folder, [0.25, 0.5])
    images = [(one["title"], one["series"], one["step"]) for one in spool.data("image")]
    assert sorted(images) == [("Mosaic", "train.jpg", 0), ("Validation", "val_pred.jpg", 2)]
    assert [one["title"] for one in spool.data("plot")] == ["results"]
    assert [one["path"] for one in spool.data("artifact")] == ["results.csv"]


def test_the_second_evaluation_of_the_last_epoch_is_no_other_epoch(
    callbacks: Callbacks, folder: Path, spool: Spool
) -> None:
    train_v5(callbacks, folder, [0.25, 0.75], has_end=False)
    callbacks.run("on_fit_epoch_end", [0.5] * 13, 1, 0.75, 0.75)
    assert len(spool.points()) == 2
    assert spool.data("summary")[0]["values"]["metrics/precision"] == 0.5


def test_every_callbacks_made_after_the_hook_is_listened_to_once(
    folder: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Made(Callbacks):
        pass

    module = SimpleNamespace(Callbacks=Made)
    install(module)
    install(module)
    made = Made()
    assert len(made.get_registered_actions("on_train_end")) == 1
    register(made, finish_seconds=0.0)
    assert len(made.get_registered_actions("on_train_end")) == 1
    train_v5(made, folder, [0.25])
    # Its own default says nothing of what is trained.
    assert spool.payloads()[0]["project"] == "YOLOv5"


@pytest.mark.parametrize("module", [SimpleNamespace(), SimpleNamespace(Callbacks=dict), None])
def test_another_programs_module_of_that_name_is_left_alone(module: Any) -> None:
    made = dict.__init__
    install(module)
    assert dict.__init__ is made


def test_a_run_that_is_to_stop_ends_with_what_it_has(
    callbacks: Callbacks, folder: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_v5(callbacks, folder, [0.25], has_end=False)
    notice = StopNotice("enough", "me", 1.0)
    monkeypatch.setattr(StopSign, "notice", property(lambda self: notice))
    callbacks.run("on_train_batch_end", None, 0, [], [], [], [])
    assert callbacks.stop_training
    assert spool.data("checkpoint")[-1]["final"]
    assert spool.data("run_finished")[0]["status"] == "completed"


def test_several_gpus_cannot_be_stopped_and_are_told_so(
    callbacks: Callbacks,
    folder: Path,
    spool: Spool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    train_v5(callbacks, folder, [0.25], has_end=False)
    notice = StopNotice("enough", "me", 1.0)
    monkeypatch.setattr(StopSign, "notice", property(lambda self: notice))
    with caplog.at_level(logging.WARNING, "trainbus"):
        callbacks.run("on_train_batch_end", None, 0, [], [], [], [])
        callbacks.run("on_train_batch_end", None, 0, [], [], [], [])
    assert not callbacks.stop_training
    assert len(caplog.records) == 1


def test_a_resumed_training_goes_on_with_its_run(
    callbacks: Callbacks, folder: Path, spool: Spool
) -> None:
    train_v5(callbacks, folder, [0.25], has_end=False)
    callbacks.run("on_pretrain_routine_start")
    again = Callbacks()
    register(again, finish_seconds=0.0)
    last = str(folder / "weights/last.pt")
    train_v5(again, folder, [0.5, 0.75], start=1, resume=True, weights=last)
    headers = [spool.payloads(source)[0] for source in spool.sources()]
    assert len({header["run"] for header in headers}) == 1
    attempts = [spool.data_of(source, "run_started")["attempt"] for source in spool.sources()]
    assert sorted(attempts) == [1, 2]


def test_other_ranks_publish_nothing(
    callbacks: Callbacks, folder: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    train_v5(callbacks, folder, [0.25])
    assert spool.sources() == []


@pytest.mark.parametrize("action", yolov5._ACTIONS)
def test_no_action_raises_whatever_it_is_given(
    action: str, callbacks: Callbacks, spool: Spool
) -> None:
    for arguments in ((), (None,) * 5, ("a", "b", "c", "d", "e", "f")):
        callbacks.run(action, *arguments)
