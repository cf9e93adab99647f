"""Pictures, models and artifacts of the live ClearML sink; its requests beside those of the SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image as Pillow

from bus.artifacts import ArtifactStore
from bus.errors import PermanentSinkError, RetryableSinkError, SinkError
from bus.kinds import Artifact, Blob, Checkpoint, Image, KindData, Model, NonFinite, Params, Plot
from bus.sinks import Marks
from tests.fixtures.clearml.shape import differences
from tests.fixtures.feed import Feed, marks_of
from tests.integration.clearml_feed import QUIET, make_live, task_of

if TYPE_CHECKING:
    from bus.events import Event
    from subscribers.clearml.live import LiveSink
    from tests.fixtures.clearml.server import ClearmlServer

pytestmark = QUIET


@pytest.fixture
async def sink(clearml_server: ClearmlServer, tmp_path: Path) -> AsyncIterator[LiveSink]:
    sink = make_live(clearml_server, tmp_path, TRAINBUS_CLEARML_TIMEOUT="2")
    yield sink
    await sink.close()


class Files:
    """Makes files, stores them, and wraps them into events."""

    def __init__(self, folder: Path, feed: Feed) -> None:
        self.folder, self.feed = folder, feed
        self.store = ArtifactStore((folder / "store").as_uri())

    def picture(self, name: str, width: int = 320, height: int = 200) -> Path:
        path = self.folder / name
        Pillow.new("RGB", (width, height), "red").save(path)
        return path

    def text(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def event(self, kind: str, file: Path, make: Callable[..., KindData], **fields: Any) -> Event:
        blob, url = self.feed.stored(self.store, file)
        return self.feed.event(kind, make(blob=blob, **fields), url)

    def damage(self, url: str) -> None:
        Path(url.removeprefix("file://")).write_bytes(b"x")

    def remove(self, url: str) -> None:
        Path(url.removeprefix("file://")).unlink()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, Feed("files", "digits"))


async def test_pictures_are_there_once_after_writing_them_twice(
    sink: LiveSink, clearml_server: ClearmlServer, files: Files
) -> None:
    jpg, png = files.picture("val_batch0.jpg"), files.picture("results.png")
    page = files.text("curve.html", "<html>a page</html>")
    events = [
        files.event("image", jpg, Image, title="Mosaic", series="train_batch0.jpg", step=0),
        files.event("image", jpg, Image, title="Mosaic", series="train_batch0.jpg", step=5),
        files.event("image", png, Image, title="a-b", series="c/ü", step=1),
        files.event("plot", png, Plot, title="results", series="plot image"),
        files.event("plot", png, Plot, title="results-x", series="plot image", step=3),
        files.event("plot", page, Plot, title="results", series="page"),
    ]
    for _ in range(2):
        await sink.write(files.feed.ref, events, marks_of(events))
    key = task_of(clearml_server, files.feed.ref)["id"]
    assert clearml_server.images(key) == {
        ("Mosaic", "train_batch0.jpg", 0): jpg.read_bytes(),
        ("Mosaic", "train_batch0.jpg", 5): jpg.read_bytes(),
        ("a-b", "c/ü", 1): png.read_bytes(),
        ("results", "page", 0): page.read_bytes(),
    }
    assert clearml_server.plot_images(key) == {
        ("results", "plot image", 0): [png.read_bytes()],
        ("results-x", "plot image", 3): [png.read_bytes()],
    }
    (figure, _) = clearml_server.plots(key).values()
    (image,) = figure["layout"]["images"]
    assert (image["sizex"], image["sizey"]) == (320, 200)
    assert len(clearml_server.files()) == 6
    assert all(f".{key}/" in path for path in clearml_server.files())


async def test_the_best_checkpoint_is_one_model_that_follows_the_latest(
    sink: LiveSink, clearml_server: ClearmlServer, files: Files, tmp_path: Path
) -> None:
    first = [
        files.feed.started(framework="PyTorch"),
        files.event("checkpoint", files.text("best.pt", "one"), Checkpoint, epoch=1, is_best=True),
        files.event("checkpoint", files.text("last.pt", "two"), Checkpoint, epoch=2),
    ]
    await sink.write(files.feed.ref, first, marks_of(first))
    key = task_of(clearml_server, files.feed.ref)["id"]
    assert list(clearml_server.models(key)) == ["best"]

    best = files.text("best.pt", "three")
    second = [
        files.event(
            "checkpoint", best, Checkpoint, epoch=3, is_best=True, is_final=True, fitness=0.7
        )
    ]
    other = make_live(clearml_server, tmp_path)
    for _ in range(2):
        await other.write(files.feed.ref, second, marks_of(first, second))
    await other.close()
    models = clearml_server.models(key)
    assert list(models) == ["best", "final"]
    assert len(clearml_server.store.models) == 2
    model = models["best"]
    assert clearml_server.file(model["uri"]) == b"three"
    assert (model["name"], model["framework"]) == (files.feed.ref.run_name, "PyTorch")
    assert (model["task"], model["ready"]) == (key, False)
    assert {name: item["value"] for name, item in model["metadata"].items()} == {
        "epoch": "3",
        "fitness": "0.7",
    }
    properties = clearml_server.hyperparams(key)["properties"]
    assert properties["trainbus.checkpoint.last"] == "best.pt 3"


async def test_a_model_folder_is_one_zip_and_all_checkpoints_are_kept_when_asked(
    sink: LiveSink, clearml_server: ClearmlServer, files: Files
) -> None:
    files.text("saved/MLmodel", "flavors: {}")
    files.text("saved/data/model.bin", "weights")
    options = {"clearml": {"all_checkpoints": True}}
    metrics = {"acc": 0.9, "worst": NonFinite.NAN}
    events = [
        files.feed.started(options=options),
        files.event(
            "model",
            files.folder / "saved",
            Model,
            name="digits/mlp",
            flavor="mlflow",
            metrics=metrics,
        ),
        files.event("checkpoint", files.text("e1.pt", "1"), Checkpoint, epoch=1),
        files.event("checkpoint", files.text("e2.pt", "2"), Checkpoint, epoch=2),
    ]
    await sink.write(files.feed.ref, events, marks_of(events))
    models = clearml_server.models(task_of(clearml_server, files.feed.ref)["id"])
    assert list(models) == ["digits/mlp", "epoch 1", "epoch 2"]
    packed = clearml_server.file(models["digits/mlp"]["uri"])
    assert packed is not None
    assert packed[:2] == b"PK"
    assert models["digits/mlp"]["uri"].endswith(".zip")
    assert models["digits/mlp"]["name"] == "digits/mlp"
    assert models["digits/mlp"]["metadata"]["worst"]["value"] == "nan"


async def test_models_go_where_the_run_wants_them(
    sink: LiveSink, clearml_server: ClearmlServer, files: Files, tmp_path: Path
) -> None:
    target = tmp_path / "a share"
    options = {"clearml": {"output_destination": str(target)}}
    events = [
        files.feed.started(options=options),
        files.event("checkpoint", files.text("best.pt", "one"), Checkpoint, is_best=True),
    ]
    await sink.write(files.feed.ref, events, marks_of(events))
    task = task_of(clearml_server, files.feed.ref)
    assert task["output"]["destination"] == str(target)
    (written,) = [path for path in target.rglob("*") if path.is_file()]
    assert written.read_text() == "one"
    assert written.name == "best.pt"
    assert clearml_server.models(task["id"])["best"]["uri"] == written.as_uri()
    assert clearml_server.files() == {}


async def test_a_url_of_the_store_is_used_when_clients_can_read_it(
    sink: LiveSink, clearml_server: ClearmlServer, files: Files
) -> None:
    url = "s3://bucket/store/ab/cdef"
    blob = Blob("best.pt", 3, "0" * 64)
    local = files.text("final.pt", "local")
    events = [
        files.feed.started(options={"clearml": {"store_urls": True}}),
        files.feed.event("checkpoint", Checkpoint(blob, is_best=True), url),
        files.event("checkpoint", local, Checkpoint, is_final=True),
    ]
    await sink.write(files.feed.ref, events, marks_of(events))
    models = clearml_server.models(task_of(clearml_server, files.feed.ref)["id"])
    assert models["best"]["uri"] == url
    assert clearml_server.file(models["final"]["uri"]) == b"local"


async def test_artifacts_are_listed_under_their_paths(
    sink: LiveSink, clearml_server: ClearmlServer, files: Files
) -> None:
    files.text("tree/a.txt", "a")
    labels = files.text("labels.csv", "x,y")
    events = [
        files.event("artifact", labels, Artifact, path="data/labels.csv"),
        files.event("artifact", labels, Artifact, path="../odd/ü.csv"),
        files.event("artifact", files.folder / "tree", Artifact, path="tree"),
    ]
    for _ in range(2):
        await sink.write(files.feed.ref, events, marks_of(events))
    held = task_of(clearml_server, files.feed.ref)["execution"]["artifacts"]
    artifacts: Mapping[str, Any] = {one["key"]: one for one in held}
    assert set(artifacts) == {"data/labels.csv", "../odd/ü.csv", "tree"}
    assert clearml_server.file(artifacts["../odd/ü.csv"]["uri"]) == b"x,y"
    assert artifacts["data/labels.csv"]["content_size"] == 3
    assert artifacts["tree"]["type"] == "archive"


async def test_a_large_file_is_streamed(
    sink: LiveSink, clearml_server: ClearmlServer, files: Files
) -> None:
    large = files.folder / "large.pt"
    with large.open("wb") as file:
        for number in range(48):
            file.write(bytes([number]) * 1024 * 1024)
    events = [files.event("checkpoint", large, Checkpoint, is_best=True)]
    await sink.write(files.feed.ref, events, marks_of(events))
    model = clearml_server.models(task_of(clearml_server, files.feed.ref)["id"])["best"]
    assert clearml_server.file(model["uri"]) == large.read_bytes()
    (request,) = clearml_server.requests_of("files")
    assert int(request.headers["Content-Length"]) > large.stat().st_size
    assert request.headers["Authorization"].startswith("Bearer ")


async def test_a_file_server_that_fails_is_tried_again_and_a_blob_that_is_gone_is_not(
    sink: LiveSink, clearml_server: ClearmlServer, files: Files
) -> None:
    event = files.event("image", files.picture("a.png"), Image, title="val", series="a", step=1)
    for action in ("answer", "drop"):
        if action == "answer":
            clearml_server.faults.answer("files", 503, 1, retry_after=9)
        else:
            clearml_server.faults.drop("files", 1, is_done=True)
        with pytest.raises(RetryableSinkError):
            await sink.write(files.feed.ref, [event], marks_of([event]))
    clearml_server.faults.answer("files", 404, 1)
    with pytest.raises(RetryableSinkError, match="CLEARML_FILES_HOST"):
        await sink.write(files.feed.ref, [event], marks_of([event]))
    await sink.write(files.feed.ref, [event], marks_of([event]))
    assert len(clearml_server.files()) == 1

    assert event.dataref is not None
    files.damage(event.dataref)
    with pytest.raises(SinkError, match="checksum"):
        await sink.write(files.feed.ref, [event], Marks())
    files.remove(event.dataref)
    with pytest.raises(PermanentSinkError, match="no longer has it"):
        await sink.write(files.feed.ref, [event], Marks())


async def test_requests_are_shaped_as_those_of_the_sdk(
    sink: LiveSink, clearml_server: ClearmlServer, files: Files
) -> None:
    events = [
        files.feed.started(tags={"a": ""}, notes="n"),
        files.feed.event("params", Params("General", {"lr0": 0.1, "none": None})),
        files.feed.metrics(["train/box", "val-set/x"], range(2)),
        files.event("image", files.picture("a.png"), Image, title="val", series="a", step=1),
        files.event("plot", files.picture("b.png"), Plot, title="results", series="b"),
        files.event("checkpoint", files.text("best.pt", "1"), Checkpoint, is_best=True, epoch=3),
        files.feed.finished(),
    ]
    await sink.write(files.feed.ref, events, marks_of(events))
    await sink.write(files.feed.ref, events, marks_of(events))
    found: dict[str, set[str]] = {}
    for request in clearml_server.requests:
        for name, body in compared(request.endpoint, request.body):
            endpoint = "events.add_batch" if name in LINES else name
            found.setdefault(name, set()).update(differences(endpoint, body))
    assert {name: what - ALWAYS for name, what in found.items()} == KNOWN


LINES = {"training_stats_scalar", "training_debug_image", "plot"}

ALWAYS = {
    # The SDK sends the name of the HTTP method along, in requests and in events.
    "missing method",
    # What the server takes when nobody says.
    "missing allow_locked",
    "missing model_event",
}

KNOWN: dict[str, set[str]] = {
    "projects.get_all": {"extra order_by", "extra order_by[]"},
    # The tag and the properties by which a task is found are there from its first moment on.
    "tasks.create": {
        "extra tags",
        "extra tags[]",
        "extra hyperparams",
        "extra hyperparams.*",
        "extra hyperparams.*.*",
        *(f"extra hyperparams.*.*.{name}" for name in ("section", "name", "value")),
        *(f"extra hyperparams.*.*.{name}" for name in ("type", "description")),
    },
    "tasks.started": set(),
    "tasks.edit": {"extra comment"},
    # Made in one call, with the tag by which it is found; the SDK makes an empty one and edits it.
    "models.create": {
        *("extra tags", "extra tags[]", "extra framework", "extra task", "extra comment"),
    },
    "models.edit": {"missing design"},
    "tasks.add_or_update_model": set(),
    # Keeps metrics with a dash in their name apart (subscribers.clearml.names.event_key).
    "training_stats_scalar": {"extra key"},
    "training_debug_image": set(),
    "plot": set(),
}


def compared(endpoint: str, body: Any) -> Iterator[tuple[str, Any]]:
    """What of a request is compared, and with which request of the SDK."""
    if endpoint == "events.add_batch":
        yield from ((line["type"], line) for line in body)
    elif endpoint == "tasks.edit_hyper_params":
        # The SDK replaces all hyperparameters at once; each of them looks the same.
        items = {item["name"]: item for item in body["hyperparams"]}
        yield "tasks.edit", {"task": body["task"], "force": True, "hyperparams": {"s": items}}
    elif endpoint in KNOWN:
        yield endpoint, body
