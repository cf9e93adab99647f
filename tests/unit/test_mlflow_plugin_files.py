"""Files, models and versions of the MLflow plugin: what becomes of them, and reading them again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelTag,
    Metric,
    RunStatus,
)
from mlflow.exceptions import MlflowException

from bus.errors import ConfigError
from tests.fixtures.spool import Spool
from tests.unit.mlflow_plugin import MS, Plugin, rows


@pytest.fixture
def plugin(spool: Spool) -> Iterator[Plugin]:
    built = Plugin(spool)
    yield built
    built.ledger.wait(0.0)
    built.ledger.kept.close()


def test_files_are_artifacts_under_their_paths_and_can_be_read_again(
    plugin: Plugin, tmp_path: Path
) -> None:
    run_id = plugin.start()
    repository = plugin.repository(run_id)
    folder = tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "deep" / "b.txt").write_text("b")
    repository.log_artifact(str(folder / "a.txt"), "notes")
    repository.log_artifacts(str(folder), "all")
    repository.log_artifacts(str(folder))
    assert [one["path"] for one in plugin.all("artifact")] == [
        "notes/a.txt",
        "all",
        "a.txt",
        "deep",
    ]
    (folder / "a.txt").write_text("changed")
    shown = [(one.path, one.is_dir, one.file_size) for one in repository.list_artifacts("all")]
    assert shown == [("all/a.txt", False, 1), ("all/deep", True, None)]
    target = tmp_path / "down"
    target.mkdir()
    assert Path(repository.download_artifacts("notes/a.txt", str(target))).read_text() == "a"
    local = Path(repository.download_artifacts("all", str(target)))
    assert (local / "deep" / "b.txt").read_text() == "b"
    with pytest.raises(MlflowException, match="was not made by this process"):
        repository._download_file("nothing", str(target / "x"))
    with pytest.raises(MlflowException, match="delete_artifacts does not work"):
        repository.delete_artifacts("all")
    with pytest.raises(MlflowException, match="leads out"):
        repository.log_artifact(str(folder / "a.txt"), "../..")


def test_a_file_that_is_not_there_does_not_stop_the_training(plugin: Plugin) -> None:
    run_id = plugin.start()
    plugin.repository(run_id).log_artifact("/nowhere/a.txt")
    assert plugin.ledger.run(run_id)._bus.dropped == {"missing_file": 1}


def test_a_picture_of_a_step_is_an_image_and_its_thumbnail_stays_here(
    plugin: Plugin, tmp_path: Path
) -> None:
    run_id = plugin.start()
    stem = "val~x+step+3+timestamp+1+0b5e7a3c-3f3e-4d8e-9a55-0a1b2c3d4e5f"
    for name in (f"{stem}.png", f"{stem}+compressed.webp"):
        (tmp_path / name).write_bytes(b"p")
        plugin.repository(run_id).log_artifact(str(tmp_path / name), "images")
    (image,) = plugin.all("image")
    assert (image["title"], image["series"], image["step"]) == ("val/x", "image", 3)
    assert plugin.all("artifact") == []


def test_a_dataset_is_a_file_that_says_it_all(plugin: Plugin) -> None:
    run_id = plugin.start()
    dataset = Dataset("train set", "abc", "local", "{}", "{}", "{}")
    given = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
    plugin.store.log_inputs(run_id, [given])
    assert [one["path"] for one in plugin.all("artifact")] == ["datasets/train-set-abc.json"]
    assert plugin.store.get_run(run_id).inputs.dataset_inputs == [given]


def test_a_model_is_published_when_it_is_ready_and_registered_under_its_key(
    plugin: Plugin, tmp_path: Path
) -> None:
    run_id = plugin.start()
    model_id = plugin.model(run_id, tmp_path / "m")
    plugin.store.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
    version = plugin.registry.create_model_version("reg", f"models:/{model_id}", None, [])
    plugin.store.set_logged_model_tags(model_id, [LoggedModelTag("mlflow.modelVersions", "[]")])
    first, second = plugin.all("model")
    assert first["key"] == second["key"] == model_id
    assert (first["flavor"], first["name"]) == ("mlflow", "clf")
    assert first["signature"] == {"inputs": "[]"}
    assert (first.get("registered_name"), second["registered_name"]) == (None, "reg")
    assert (version.name, version.version, version.run_id) == ("reg", "1", run_id)
    assert plugin.store.get_run(run_id).outputs.model_outputs[0].model_id == model_id


def test_points_of_a_model_go_with_the_end_of_its_run(plugin: Plugin, tmp_path: Path) -> None:
    run_id = plugin.start()
    point = Metric("acc", 0.5, MS, 0)
    plugin.store.log_metric(run_id, point)
    model_id = plugin.model(run_id, tmp_path / "m")
    # MLflow's log_model does this: the same point, as the model's too.
    plugin.store.log_metric(run_id, Metric("acc", 0.5, MS, 0, model_id=model_id))
    assert len(rows(plugin)) == 1
    plugin.store.update_run_info(run_id, RunStatus.FINISHED, MS, None)
    last = plugin.all("model")[-1]
    assert last["options"]["mlflow"]["points"] == [["acc", MS, 0, 0.5, None, None]]
    assert [one.key for one in plugin.store.get_logged_model(model_id).metrics] == ["acc"]


def test_a_model_without_a_run_gets_one(plugin: Plugin, tmp_path: Path) -> None:
    model_id = plugin.model(None, tmp_path / "m", "alone")
    assert plugin.all("model")[0]["name"] == "alone"
    assert [one["status"] for one in plugin.all("run_finished")] == ["completed"]
    assert plugin.store.get_logged_model(model_id).source_run_id is None


def test_a_folder_that_was_logged_as_files_is_registered(plugin: Plugin, tmp_path: Path) -> None:
    run_id = plugin.start()
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {}\n")
    plugin.repository(run_id).log_artifacts(str(folder), "saved")
    uri = plugin.store.get_run(run_id).info.artifact_uri
    version = plugin.registry.create_model_version("reg", f"{uri}/saved", run_id)
    assert plugin.all("model")[0]["registered_name"] == "reg"
    assert plugin.registry.get_model_version_download_uri("reg", "1") == version.source
    with pytest.raises(MlflowException, match="which this process has not logged"):
        plugin.registry.create_model_version("reg", "s3://bucket/model")
    with pytest.raises(MlflowException, match="already exists"):
        plugin.registry.create_registered_model("reg")
    assert [one.name for one in plugin.registry.search_registered_models()] == ["reg"]
    assert [one.version for one in plugin.registry.get_latest_versions("reg")] == ["1"]


def test_without_room_the_last_model_can_still_be_registered(spool: Spool, tmp_path: Path) -> None:
    plugin = Plugin(spool, TRAINBUS_MLFLOW_KEEP="0")
    run_id = plugin.start()
    first = plugin.model(run_id, tmp_path / "one", "one")
    plugin.registry.create_model_version("reg", f"models:/{first}")
    second = plugin.model(run_id, tmp_path / "two", "two")
    plugin.registry.create_model_version("reg", f"models:/{second}")
    with pytest.raises(MlflowException, match="once the copy of its files is gone"):
        plugin.registry.create_model_version("reg", f"models:/{first}")
    assert [one["name"] for one in plugin.all("model")] == ["one", "one", "two", "two"]
    plugin.repository(run_id).log_artifact(str(tmp_path / "one" / "weights"))
    assert [one["path"] for one in plugin.all("artifact")] == ["weights"]
    with pytest.raises(MlflowException, match="TRAINBUS_MLFLOW_KEEP is the number of bytes"):
        plugin.repository(run_id)._download_file("weights", str(tmp_path / "x"))
    plugin.ledger.kept.close()


def test_a_budget_that_is_no_number_is_said(spool: Spool) -> None:
    with pytest.raises(ConfigError, match="TRAINBUS_MLFLOW_KEEP is a number of bytes"):
        Plugin(spool, TRAINBUS_MLFLOW_KEEP="1G")
