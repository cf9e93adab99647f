"""Artifacts and models of the MLflow sink, against a real server and SQLite in process."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import yaml  # type: ignore[import-untyped]  # comes with mlflow, ships no types
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelStatus
from mlflow.tracking import MlflowClient

from bus.artifacts import ArtifactStore
from bus.errors import PermanentSinkError, RetryableSinkError
from bus.events import Event
from bus.kinds import Artifact, Checkpoint, Image, Model, NonFinite, Plot
from subscribers.mlflow import models
from subscribers.mlflow.points import expected_points
from subscribers.mlflow.sink import MlflowSink
from tests.fixtures.mlflow import MlflowServer
from tests.integration.mlflow_feed import Feed, make_sink, marks_of, run_in


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow files') / 'mlflow.db'}"


@pytest.fixture(params=["server", "sqlite"])
def uri(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_uri"))
    server = request.getfixturevalue("mlflow_server")
    assert isinstance(server, MlflowServer)
    return server.uri


@pytest.fixture
async def sink(uri: str, tmp_path: Path) -> AsyncIterator[MlflowSink]:
    sink = make_sink(uri, tmp_path)
    yield sink
    await sink.close()


@pytest.fixture
def client(uri: str, sink: MlflowSink) -> MlflowClient:
    return MlflowClient(uri, uri)


@pytest.fixture
def feed() -> Feed:
    return Feed(f"run {uuid4().hex[:6]}", f"project {uuid4().hex[:8]}")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore((tmp_path / "store").as_uri())


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the sink fetches blobs to: empty again after every write."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def left_in(folder: Path) -> list[Path]:
    return list(folder.glob("trainbus-*"))


def files_in(client: MlflowClient, run_id: str, path: str | None = None) -> set[str]:
    found: set[str] = set()
    for item in client.list_artifacts(run_id, path):
        found |= files_in(client, run_id, item.path) if item.is_dir else {item.path}
    return found


async def test_files_and_folders_lie_under_clear_paths(
    sink: MlflowSink,
    client: MlflowClient,
    feed: Feed,
    store: ArtifactStore,
    tmp_path: Path,
    temporary_folder: Path,
) -> None:
    picture = tmp_path / "val batch.png"
    picture.write_bytes(b"png")
    empty = tmp_path / "empty.txt"
    empty.touch()
    folder = tmp_path / "folder"
    (folder / "in ner").mkdir(parents=True)
    (folder / "in ner" / "ä.txt").write_text("a")
    (folder / "in ner" / "odd#name?.txt").write_text("b")
    blob, url = await asyncio.to_thread(feed.stored, store, picture)
    none, none_url = await asyncio.to_thread(feed.stored, store, empty)
    tree, tree_url = await asyncio.to_thread(feed.stored, store, folder)
    events = [
        feed.started(),
        feed.event("image", Image("val/x", "batch 0", blob, step=10), url),
        feed.event("image", Image("val", "batch 1", blob), url),
        feed.event("plot", Plot("confusion", "matrix", blob, step=3), url),
        feed.event("artifact", Artifact("reports/empty.txt", none), none_url),
        feed.event("artifact", Artifact("/reports/../tree", tree), tree_url),
        feed.event("checkpoint", Checkpoint(blob, 2, is_best=True, fitness=0.5), url),
        feed.event("checkpoint", Checkpoint(blob, is_final=True), url),
    ]
    await sink.open_run(feed.ref)
    for _ in range(2):
        await sink.write(feed.ref, events, marks_of(events))
    run = await run_in(client, feed.ref)
    found = files_in(client, run.info.run_id)
    (root,) = {path.rpartition("/trainbus-names.json")[0] for path in found} - {""}
    assert root.startswith("reports/")
    (renamed,) = (path for path in found if "odd-name" in path)
    assert found == {
        "images/val/x/batch 0/10.png",
        "images/val/batch 1/val batch.png",
        "plots/confusion/matrix/3.png",
        "reports/empty.txt",
        f"{root}/in ner/ä.txt",
        renamed,
        f"{root}/trainbus-names.json",
        "checkpoints/epoch_2/val batch.png",
        "checkpoints/val batch.png",
    }
    local = client.download_artifacts(run.info.run_id, "images/val/x/batch 0/10.png")
    assert read(local) == b"png"
    tags = run.data.tags
    assert tags["trainbus.checkpoint.best"] == "checkpoints/epoch_2/val batch.png"
    assert tags["trainbus.checkpoint.best_fitness"] == "0.5"
    assert tags["trainbus.checkpoint.final"] == "checkpoints/val batch.png"
    assert left_in(temporary_folder) == []


def model_events(feed: Feed, store: ArtifactStore, folder: Path) -> list[Event]:
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"w")
    content = {"flavors": {"python_function": {"loader_module": "none"}}, "signature": {"x": "ä"}}
    (folder / "MLmodel").write_text(yaml.safe_dump(content))
    blob, url = feed.stored(store, folder)
    data = Model(
        "digits/mlp.v1",
        blob,
        "mlflow",
        metrics={"acc (%)": 0.9, "bad": NonFinite.INFINITY},
        registered_name=f"registered {feed.ref.project}",
    )
    return [feed.started(), feed.event("model", data, url)]


async def test_a_model_is_logged_linked_and_registered_once(
    sink: MlflowSink, client: MlflowClient, feed: Feed, store: ArtifactStore, tmp_path: Path
) -> None:
    events = await asyncio.to_thread(model_events, feed, store, tmp_path / "best model")
    await sink.open_run(feed.ref)
    for _ in range(2):
        await sink.write(feed.ref, events, marks_of(events))
    run = await run_in(client, feed.ref)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.status == LoggedModelStatus.READY
    assert model.name.startswith("digits-mlp-v1-x")
    assert model.source_run_id == run.info.run_id
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert [(metric.key[:3], metric.value) for metric in model.metrics] == [("acc", 0.9)]
    (version,) = client.search_model_versions(f"name = 'registered {feed.ref.project}'")
    assert version.run_id == run.info.run_id
    assert model.model_id in version.source
    assert f"registered {feed.ref.project}" in model.tags["mlflow.modelVersions"]
    assert run.data.tags["trainbus.nonfinite.bad"].startswith("Infinity")
    contents = await sink.contents(feed.ref)
    assert contents is not None
    assert contents.points == len(expected_points(events[1])) == 2


async def test_the_model_says_which_run_it_is_from(
    sink: MlflowSink,
    client: MlflowClient,
    feed: Feed,
    store: ArtifactStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    events = await asyncio.to_thread(model_events, feed, store, tmp_path / "model")
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, events, marks_of(events))
    run = await run_in(client, feed.ref)
    (model,) = client.search_logged_models([run.info.experiment_id])
    local = download_artifacts(f"models:/{model.model_id}")
    assert (Path(local) / "weights.bin").read_bytes() == b"w"
    content = yaml.safe_load((Path(local) / "MLmodel").read_text())
    assert (content["model_id"], content["run_id"]) == (model.model_id, run.info.run_id)
    assert content["signature"] == {"x": "ä"}


@pytest.mark.parametrize("step", ["_upload", "_link", "_log_metrics", "_register"])
async def test_a_model_whose_logging_was_cut_short_is_completed(
    sink: MlflowSink,
    client: MlflowClient,
    feed: Feed,
    store: ArtifactStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    events = await asyncio.to_thread(model_events, feed, store, tmp_path / "model")
    await sink.open_run(feed.ref)

    def killed(*_: object) -> None:
        raise ConnectionError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(models, step, killed)
        with pytest.raises(RetryableSinkError):
            await sink.write(feed.ref, events, marks_of(events))
    await sink.write(feed.ref, events, marks_of(events))
    run = await run_in(client, feed.ref)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.status == LoggedModelStatus.READY
    assert len(run.outputs.model_outputs) == 1
    assert len(client.search_model_versions(f"name = 'registered {feed.ref.project}'")) == 1


async def test_a_single_file_is_a_model_too_and_the_runs_options_can_register_it(
    sink: MlflowSink, client: MlflowClient, feed: Feed, store: ArtifactStore, tmp_path: Path
) -> None:
    path = tmp_path / "best.onnx"
    path.write_bytes(b"onnx")
    blob, url = await asyncio.to_thread(feed.stored, store, path)
    name = f"option {feed.ref.project}"
    first = [feed.started(options={"mlflow": {"registered_model_name": name}})]
    second = [feed.event("model", Model("best", blob, "onnx"), url)]
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, first, marks_of(first))
    await sink.write(feed.ref, second, marks_of(first, second))
    run = await run_in(client, feed.ref)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert (model.name, model.tags["trainbus.flavor"]) == ("best", "onnx")
    assert len(client.search_model_versions(f"name = '{name}'")) == 1


async def test_a_blob_that_is_gone_is_refused_for_good(
    sink: MlflowSink, feed: Feed, store: ArtifactStore, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    blob, url = await asyncio.to_thread(feed.stored, store, path)
    event = feed.event("artifact", Artifact("file", blob), url)
    for kept in (tmp_path / "store").rglob("*"):
        if kept.is_file():
            kept.unlink()
    await sink.open_run(feed.ref)
    with pytest.raises(PermanentSinkError, match="no longer has it"):
        await sink.write(feed.ref, [event], marks_of([event]))
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(RetryableSinkError, match="TRAINBUS_STORE"):
        await sink.write(feed.ref, [event], marks_of([event]))
