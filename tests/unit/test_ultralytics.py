from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import orjson
import pytest

from bus.control import StopNotice
from publishers.integrations import ultralytics
from publishers.integrations.ultralytics import attach, current_run, ending, guard, hooks
from publishers.stopping import StopSign
from tests.fixtures.spool import Spool
from tests.fixtures.yolotrainer import JPEG, PNG, Model, Trainer, Validator, train

INFO = {"model/parameters": 7, "model/GFLOPs": 0.5, "model/speed_PyTorch(ms)": 1.5}


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the callbacks import of ultralytics itself."""
    modules = {name: ModuleType(name) for name in ("ultralytics", "ultralytics.utils")}
    tools = ModuleType("ultralytics.utils.torch_utils")
    tools.model_info_for_loggers = lambda trainer: INFO  # type: ignore[attr-defined]  # a stand-in
    modules["ultralytics.utils.torch_utils"] = tools
    modules["ultralytics.utils"].YAML = SimpleNamespace(  # type: ignore[attr-defined]  # as above
        load=lambda file: {"names": {0: "red", 1: "blue"}}
    )
    modules["ultralytics.utils.checks"] = checks = ModuleType("ultralytics.utils.checks")
    checks.check_file = lambda file, **_: file  # type: ignore[attr-defined]  # as above
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("TRAINBUS_WRAPPER", raising=False)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of other tests: what was warned about, and what has not ended."""
    monkeypatch.setattr(guard.warnings, "_warned", set())
    yield
    for _, training in list(ending._under_way.values()):
        ending.forget(training)
    hooks._trainings.clear()
    hooks._aside.end()
    hooks._aside.last_training = None


@pytest.fixture
def model() -> Model:
    return attach(Model(), project="squares", finish_seconds=0.0)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(tmp_path / "runs/t")


def test_a_training_becomes_a_run_with_rows_by_epoch(
    model: Model, trainer: Trainer, spool: Spool
) -> None:
    train(model, trainer, [0.25, 0.75, 0.5])
    (started,) = spool.data("run_started")
    assert started["framework"] == "ultralytics"
    assert started["tags"] == {"Ultralytics": ""}
    assert started["world"] == {"nodes": 1, "ranks": 1}
    (params,) = spool.data("params")
    assert params["section"] == "General"
    assert params["params"]["lr0"] == 0.01
    points = spool.points()
    assert [step for step, _ in points] == [0, 0, 1, 1, 2, 2]
    assert points[2] == (1, {"train/box_loss": 1.0, "lr/pg0": 0.005})
    assert points[3] == (
        1,
        {"Epoch Time": 1.5, "metrics/mAP50(B)": 0.75, "val/box_loss": 0.25, "fitness": 0.75},
    )
    assert [(one["phase"], one["state"]) for one in spool.data("phase")] == [
        ("train", "started"),
        ("train", "ended"),
    ]
    (finished,) = spool.data("run_finished")
    assert (finished["status"], finished["dropped"]) == ("completed", {})


def test_what_a_model_is_and_the_results_of_its_best_weights_are_single_values(
    model: Model, trainer: Trainer, spool: Spool
) -> None:
    train(model, trainer, [0.25, 0.75])
    info, final = spool.data("summary")
    assert info["values"] == INFO
    # Those of best.pt: the row that comes for them is no epoch.
    assert final == {"values": {"metrics/mAP50(B)": 0.75, "fitness": 0.5}, "step": 2}


def test_checkpoints_say_which_is_the_best_and_the_last_one_is_the_model(
    model: Model, trainer: Trainer, spool: Spool
) -> None:
    train(model, trainer, [0.25, 0.75, 0.5])
    records = spool.records("checkpoint")
    assert [one["data"] for one in records] == [
        {"best": True, "final": False, "epoch": 0, "fitness": 0.25},
        {"best": True, "final": False, "epoch": 1, "fitness": 0.75},
        {"best": False, "final": False, "epoch": 2, "fitness": 0.5},
        {"best": True, "final": True, "epoch": 1, "fitness": 0.75},
    ]
    assert spool.blob(records[1]).read_bytes() == b"weights of epoch 1"
    assert spool.blob(records[3]).read_bytes() == b"weights of epoch 1"
    assert records[3]["blob"]["name"] == "best.pt"


def test_an_epoch_without_validation_does_not_repeat_the_values_of_an_earlier_one(
    model: Model, trainer: Trainer, spool: Spool
) -> None:
    model.fire("on_pretrain_routine_start", trainer)
    trainer.metrics = {"metrics/mAP50(B)": 0}
    model.fire("on_train_start", trainer)
    trainer.begin_epoch(0)
    model.fire("on_train_epoch_end", trainer)
    trainer.epoch_time = 2.5
    model.fire("on_fit_epoch_end", trainer)
    assert spool.points()[-1] == (0, {"Epoch Time": 2.5})


def test_pictures_plots_and_files_have_the_places_ultralytics_gives_them(
    model: Model, trainer: Trainer, spool: Spool
) -> None:
    folder = trainer.save_dir
    (folder / "train_batch1.jpg").write_bytes(JPEG)
    (folder / "val_batch0_labels.jpg").write_bytes(JPEG)
    (folder / "val_batch0_pred.jpg").write_bytes(JPEG[:-1])
    (folder / "BoxF1_curve.png").write_bytes(PNG)
    (folder / "labels.jpg").write_bytes(JPEG)
    (folder / "results.csv").write_text("epoch\n")
    curve = {"type": "f1_curve", "x": [0.0, 1.0], "y": [[0.5, 0.25]]}
    trainer.validator.plots = {folder / "BoxF1_curve.png": {"data": curve, "timestamp": 1.0}}
    train(model, trainer, [0.25, 0.75])
    images = [(one["title"], one["series"], one["step"]) for one in spool.data("image")]
    # The picture that is still being drawn is not among them.
    assert sorted(images) == [("Mosaic", "train.jpg", 1), ("Validation", "val_labels.jpg", 0)]
    plots = spool.records("plot")
    assert [one["data"]["title"] for one in plots] == ["BoxF1_curve", "labels", "f1_curve"]
    assert orjson.loads(spool.blob(plots[2]).read_bytes()) == curve
    assert [one["path"] for one in spool.data("artifact")] == ["results.csv"]


def test_class_names_are_known_from_the_data_set_before_the_run_begins(
    model: Model, spool: Spool, tmp_path: Path
) -> None:
    train(model, Trainer(tmp_path / "runs/t", data="squares.yaml"), [0.5])
    assert spool.data("run_started")[0]["config"]["names"] == {"0": "red", "1": "blue"}


def test_without_class_names_there_is_a_run_all_the_same(
    model: Model, spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sys.modules["ultralytics.utils"], "YAML")
    train(model, Trainer(tmp_path / "runs/t", data="squares.yaml"), [0.5])
    assert "names" not in spool.data("run_started")[0]["config"]
    assert spool.data("run_finished")[0]["status"] == "completed"


def test_a_crash_that_passes_teardown_fails_the_run(
    model: Model, trainer: Trainer, spool: Spool
) -> None:
    train(model, trainer, [0.25], has_end=False)
    try:
        raise RuntimeError("out of memory")
    except RuntimeError:
        model.fire("teardown", trainer)
    (finished,) = spool.data("run_finished")
    assert (finished["status"], finished["error"]) == ("failed", "RuntimeError: out of memory")


def test_ctrl_c_kills_the_run(model: Model, trainer: Trainer, spool: Spool) -> None:
    train(model, trainer, [0.25], has_end=False)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        model.fire("teardown", trainer)
    assert spool.data("run_finished")[0]["status"] == "killed"


def test_a_crash_that_nobody_tells_of_shows_when_another_training_begins(
    model: Model, trainer: Trainer, spool: Spool, tmp_path: Path
) -> None:
    train(model, trainer, [0.25], has_end=False)
    train(model, Trainer(tmp_path / "runs/t2"), [0.5])
    ends = [spool.records("run_finished", one)[0]["data"] for one in spool.sources()]
    assert sorted(end["status"] for end in ends) == ["completed", "failed"]


def test_a_resumed_training_goes_on_with_its_run(
    model: Model, trainer: Trainer, spool: Spool
) -> None:
    train(model, trainer, [0.25], has_end=False)
    first = current_run()
    assert first is not None
    first.finish("killed", timeout=0.0)
    hooks._trainings.clear()
    again = Trainer(trainer.save_dir, resume=str(trainer.last), lr0=0.01, model=str(trainer.last))
    train(model, again, [0.75, 0.5], start=1)
    second = max(spool.sources(), key=lambda one: spool.data_of(one, "run_started")["attempt"])
    assert spool.data_of(second, "run_started")["attempt"] == 2
    headers = [spool.payloads(source)[0] for source in spool.sources()]
    assert {header["run"] for header in headers} == {first.id}
    # Trackers keep the first value of a param.
    sections = [one["data"] for one in spool.records("params", second)]
    assert [one["section"] for one in sections] == ["General", "Resume 2"]
    assert sections[1]["params"] == {"resume": str(trainer.last)}
    assert {step for step, _ in spool.points(second)} == {1, 2}


def test_a_training_that_resumes_nothing_is_a_new_run(
    model: Model, trainer: Trainer, spool: Spool
) -> None:
    train(model, trainer, [0.25])
    train(model, Trainer(trainer.save_dir), [0.25])
    headers = [spool.payloads(source)[0] for source in spool.sources()]
    assert len({header["run"] for header in headers}) == 2


def test_a_damaged_record_of_the_run_is_passed_over(
    model: Model, trainer: Trainer, spool: Spool
) -> None:
    (trainer.save_dir / "trainbus.json").write_text('{"run": 7}')
    again = Trainer(trainer.save_dir, resume=str(trainer.last))
    train(model, again, [0.25])
    assert spool.data("run_started")[0]["attempt"] == 1


def test_a_run_that_is_to_stop_stops_the_trainer(
    model: Model, trainer: Trainer, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.fire("on_pretrain_routine_start", trainer)
    model.fire("on_train_start", trainer)
    assert not trainer.stop
    notice = StopNotice("enough", "me", 1.0)
    monkeypatch.setattr(StopSign, "notice", property(lambda self: notice))
    model.fire("on_train_batch_end", trainer)
    assert trainer.stop


def test_ranks_are_told_to_stop_only_between_epochs(
    model: Model, trainer: Trainer, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    trainer.world_size = 2
    train(model, trainer, [0.25], has_end=False)
    notice = StopNotice("enough", "me", 1.0)
    monkeypatch.setattr(StopSign, "notice", property(lambda self: notice))
    model.fire("on_train_batch_end", trainer)
    assert not trainer.stop
    model.fire("on_fit_epoch_end", trainer)
    assert trainer.stop


def test_other_ranks_publish_nothing(
    model: Model, trainer: Trainer, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    train(model, trainer, [0.25])
    assert spool.sources() == []


def test_a_run_that_cannot_be_started_is_warned_about_once_and_the_training_goes_on(
    trainer: Trainer, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    model = attach(Model(), project="squares", world="two")
    with caplog.at_level(logging.WARNING, "trainbus"):
        train(model, trainer, [0.25, 0.5])
        train(model, trainer, [0.25])
    assert len(caplog.records) == 1
    assert "world" in caplog.text
    assert spool.sources() == []


@pytest.mark.parametrize("event", sorted(hooks.CALLBACKS))
def test_no_callback_raises_whatever_it_is_given(event: str, spool: Spool) -> None:
    for subject in (None, 7, object(), SimpleNamespace(), Model()):
        hooks.CALLBACKS[event](subject)
        hooks.note_options({}, subject)


def test_a_trainer_that_lacks_anything_is_trained_all_the_same(
    model: Model, trainer: Trainer, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.fire("on_pretrain_routine_start", trainer)
    for name in ("metrics", "tloss", "plots", "last", "validator", "stopper"):
        delattr(trainer, name)
    for event in list(hooks.CALLBACKS)[1:8]:
        model.fire(event, trainer)
    (finished,) = spool.data("run_finished")
    assert finished["status"] in {"completed", "failed"}


def test_the_callbacks_can_be_pickled_with_the_users_options(model: Model) -> None:
    copied = pickle.loads(pickle.dumps(model.callbacks))
    assert copied["on_train_end"] == [hooks.on_train_end]
    (remember, start) = copied["on_pretrain_routine_start"]
    assert remember.args[0]["project"] == "squares"
    assert start is hooks.on_pretrain_routine_start


def test_attaching_twice_or_after_the_hook_calls_nothing_twice(spool: Spool) -> None:
    base = SimpleNamespace(default_callbacks={"on_train_start": [print]})
    ultralytics.install(base)
    ultralytics.install(base)
    assert base.default_callbacks["on_train_start"] == [print, hooks.on_train_start]
    model = Model(**{event: list(found) for event, found in base.default_callbacks.items()})
    attach(attach(model, project="one"), project="two")
    assert model.callbacks["on_train_end"] == [hooks.on_train_end]
    (remember, _) = model.callbacks["on_pretrain_routine_start"]
    assert remember.args[0] == {"project": "two"}


def test_a_validation_alone_has_a_run_of_its_own(
    model: Model, spool: Spool, tmp_path: Path
) -> None:
    validator = Validator(tmp_path)
    (tmp_path / "BoxF1_curve.png").write_bytes(PNG)
    model.fire("on_val_start", validator)
    model.fire("on_val_end", validator)
    phases = [(one["phase"], one["state"]) for one in spool.data("phase")]
    assert phases == [("val", "started"), ("val", "ended")]
    assert spool.data("summary") == [{"values": {"metrics/mAP50(B)": 0.75, "fitness": 0.5}}]
    assert [one["title"] for one in spool.data("plot")] == ["BoxF1_curve"]


def test_predictions_share_one_run_nested_in_that_of_the_training_before(
    model: Model, trainer: Trainer, spool: Spool
) -> None:
    train(model, trainer, [0.25])
    (trained,) = spool.sources()
    run = spool.payloads(trained)[0]["run"]
    predictor = SimpleNamespace(args=SimpleNamespace(mode="predict", source="rtsp://me:pw@cam/1"))

    class Predictor:
        args = predictor.args

    for _ in range(3):
        one = Predictor()
        model.fire("on_predict_start", one)
        model.fire("on_predict_end", one)
    (other,) = [source for source in spool.sources() if source != trained]
    assert spool.data_of(other, "run_started")["parent"] == run
    assert len(spool.records("phase", other)) == 6
    assert spool.records("params", other)[0]["data"]["params"]["source"] == "rtsp://cam/1"


def test_what_a_url_holds_of_keys_is_not_published(
    model: Model, spool: Spool, tmp_path: Path
) -> None:
    url = "https://hub.ultralytics.com/models/M1?api_key=secret"
    trainer = Trainer(tmp_path / "runs/t", model=url)
    model.fire("on_pretrain_routine_start", trainer)
    for source in spool.sources():
        assert b"secret" not in b"".join(one.read_bytes() for one in source.glob("*.journal"))
    assert b"secret" not in (trainer.save_dir / "trainbus.json").read_bytes()
