"""A run written without a server, imported by the real SDK, is there value by value."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from subscribers.clearml.offline.layout import Layout
from subscribers.clearml.offline.sink import OfflineSink
from tests.fixtures.clearml.fixture import running_server
from tests.fixtures.clearml.sessions import PICTURE, import_sessions, whole_run, write_run
from tests.fixtures.feed import Feed
from tests.fixtures.processes import Processes

if TYPE_CHECKING:
    from tests.fixtures.clearml.server import ClearmlServer

PROJECT = "team/digits ü"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClearmlServer]:
    """A server into which one run of every kind of event was imported."""
    folder = tmp_path_factory.mktemp("clearml import")
    processes = Processes(folder / "processes")
    feed = Feed("run 1", PROJECT)

    async def write() -> None:
        sink = OfflineSink(folder / "sessions")
        await write_run(sink, feed, await asyncio.to_thread(whole_run, feed, folder))
        await sink.close()

    with running_server() as server:
        try:
            asyncio.run(write())
            archive = Layout(folder / "sessions", feed.ref).archive
            import_sessions(processes, server, folder, archive)
            yield server
        finally:
            processes.kill_all()


@pytest.fixture
def task(server: ClearmlServer) -> str:
    (task,) = server.tasks()
    return str(task["id"])


def test_the_task_has_its_project_name_tags_note_and_origin(
    server: ClearmlServer, task: str
) -> None:
    held = server.task(task)
    assert held["project"] == server.project(PROJECT)["id"]
    assert (held["name"], held["status"]) == ("name of run 1", "completed")
    assert held["comment"] == "a note “in quotes”"
    assert held["tags"] == ["trainbus-run:run 1", "team:vision", "stage:final"]
    assert held["script"]["version_num"] == "abc123"
    assert held["script"]["entry_point"] == "train.py"
    assert '"epochs": 3' in held["configuration"]["config"]["value"]


def test_hyperparameters_have_their_sections_values_and_types(
    server: ClearmlServer, task: str
) -> None:
    params = server.hyperparams(task)
    assert params["General"] == {"lr0": "0.01", "nest/a": "[1, 2]", "off": ""}
    assert params["Data & more"] == {"path": "/data/ü"}
    assert server.task(task)["hyperparams"]["General"]["lr0"]["type"] == "float"


def test_scalars_and_single_values_are_those_of_the_run(server: ClearmlServer, task: str) -> None:
    values = {0: 0.5, 1: 1.5, 2: 2.5}
    series = [("train", "box"), ("loss", "loss"), ("a-b", "c"), ("a", "b-c")]
    assert server.scalars(task) == dict.fromkeys(series, values)
    assert server.single_values(task) == {"mAP50": 0.9}


def test_what_is_not_finite_is_noted_and_never_zero(server: ClearmlServer, task: str) -> None:
    note = server.hyperparams(task)["properties"]["trainbus.nonfinite"]
    assert "train/box" in note
    assert "Summary/worst" in note


def test_pictures_are_debug_samples_and_plots_and_a_page_a_sample(
    server: ClearmlServer, task: str
) -> None:
    assert server.images(task) == {
        ("Mosaic", "train batch/0 (ü)", 1): PICTURE,
        ("page", "html", 0): b"<p>",
    }
    key = ("confusion-matrix", "normalised", 2)
    assert server.plot_images(task) == {key: [PICTURE]}
    assert server.plots(task)[key]["layout"]["images"][0]["sizey"] == 256


def test_every_path_is_of_the_new_task_and_needs_no_quoting(
    server: ClearmlServer, task: str
) -> None:
    for path in server.files():
        assert f".{task}/" in path
        assert "offline" not in path
        assert not set(path) & set(" ()%?#")


def test_models_are_listed_by_role_with_their_weights(server: ClearmlServer, task: str) -> None:
    models = server.models(task)
    (tree,) = models.keys() - {"best"}
    assert (models["best"]["name"], models["best"]["framework"]) == ("name of run 1", "PyTorch")
    assert models["best"]["comment"].endswith("epoch: 2\nfitness: 0.7")
    assert path_of(models["best"]["uri"]).read_bytes() == b"best"
    assert (models[tree]["name"], models[tree]["framework"]) == ("digits/mlp v1.0", "mlflow")
    assert models[tree]["system_tags"] == ["package"]
    with zipfile.ZipFile(path_of(models[tree]["uri"])) as packed:
        assert packed.namelist() == ["MLmodel", "inner/weights.bin"]


def test_artifacts_are_uploaded_a_folder_as_a_zip(server: ClearmlServer, task: str) -> None:
    artifacts = server.artifacts(task)
    assert {key: one["type"] for key, one in artifacts.items()} == {
        "data/a b.csv": "custom",
        "tree": "archive",
    }
    assert server.file(artifacts["data/a b.csv"]["uri"]) == b"1,2"
    tree = server.file(artifacts["tree"]["uri"])
    assert tree is not None
    with zipfile.ZipFile(BytesIO(tree)) as packed:
        assert packed.read("inner/weights.bin") == b"tree weights"


def test_console_lines_are_there_in_order(server: ClearmlServer, task: str) -> None:
    assert server.console(task) == ["epoch 1", "“Ende” ü"]


def path_of(uri: str) -> Path:
    """The file behind a URL of the file system, as the SDK writes it: without quoting."""
    return Path(uri.removeprefix("file://"))
