"""Real trainings with Ultralytics through a real broker, compared with their own results.csv."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow.tracking import MlflowClient

from tests.fixtures.hub import KEY as HUB_KEY
from tests.fixtures.hubprocess import HubProcess
from tests.fixtures.mlflow import MlflowServer
from tests.fixtures.platform import KEY as PLATFORM_KEY
from tests.fixtures.platform import running_platform
from tests.fixtures.processes import wait_until
from tests.fixtures.yoloroad import YoloRoad, arguments, epochs_of

if TYPE_CHECKING:
    from tests.fixtures.clearml.server import ClearmlServer

pytestmark = [
    pytest.mark.slow,
    # The first test may have to install PyTorch.
    pytest.mark.timeout(900),
]

CURVES = {"BoxF1_curve", "BoxPR_curve", "BoxP_curve", "BoxR_curve"}
PLOTS = {*CURVES, "confusion_matrix", "confusion_matrix_normalized", "labels", "results"}
INFO = {"model/parameters", "model/GFLOPs", "model/speed_PyTorch(ms)"}

ATTACHED = """
import json, sys
from ultralytics import YOLO
from publishers.integrations.ultralytics import attach

options, arguments = (json.loads(word) for word in sys.argv[2:])
model = attach(YOLO(sys.argv[1]), **options)
model.train(**arguments)
model.val(data=arguments["data"], project=arguments["project"], name="checked", workers=0)
"""


@pytest.fixture
def road(yolo_road: YoloRoad) -> YoloRoad:
    return yolo_road


def is_same(ours: float, theirs: float) -> bool:
    """results.csv holds six digits."""
    return math.isclose(ours, theirs, rel_tol=1e-5, abs_tol=1e-12)


def check_values(
    found: dict[str, dict[int, float]], folder: Path, *, has_final: bool = False
) -> None:
    """Every value of results.csv, and no other epoch.

    Args:
        found: What a tracker has: by name, by epoch.
        folder: Of the training.
        has_final: The results of best.pt stand behind the last epoch.
    """
    rows = epochs_of(folder)
    assert len(rows) >= 3
    assert max(row["metrics/mAP50-95(B)"] for row in rows) > 0
    names = set(rows[0]) - {"epoch", "time"}
    assert {"train/box_loss", "val/box_loss", "metrics/mAP50-95(B)", "lr/pg0"} <= names
    for name in names:
        wanted = {int(row["epoch"]) - 1: row[name] for row in rows}
        behind = {len(rows)} if has_final and name.startswith("metrics/") else set()
        assert found[name].keys() == wanted.keys() | behind, name
        for epoch, value in wanted.items():
            assert is_same(found[name][epoch], value), (name, epoch)


def mlflow_run(client: MlflowClient, run: str) -> Any:
    experiment = client.get_experiment_by_name("squares")
    found = client.search_runs([experiment.experiment_id], f"tags.`trainbus.run_id` = '{run}'")
    (only,) = found
    return only


def mlflow_values(client: MlflowClient, run: Any) -> dict[str, dict[int, float]]:
    return {
        # MLflow has the original of a name that it does not take.
        run.data.tags.get(f"trainbus.name.{key}", key): {
            one.step: one.value for one in client.get_metric_history(run.info.run_id, key)
        }
        for key in run.data.metrics
    }


def mlflow_files(client: MlflowClient, run: Any, folder: str = "") -> set[str]:
    found: set[str] = set()
    for one in client.list_artifacts(run.info.run_id, folder or None):
        found |= mlflow_files(client, run, one.path) if one.is_dir else {one.path}
    return found


def test_the_yolo_command_under_trainbus_run_is_in_every_tracker_value_by_value(
    road: YoloRoad,
    mlflow_server: MlflowServer,
    clearml_server: ClearmlServer,
    tmp_path: Path,
) -> None:
    run = f"yolo-{road.yolo.version}"
    hub = HubProcess(tmp_path / "hub")
    hub.start()
    try:
        road.services = {
            "MLFLOW_TRACKING_URI": mlflow_server.uri,
            **clearml_server.environ,
            "HUB_API_KEY": HUB_KEY,
            "ULTRALYTICS_HUB_API": hub.url,
        }
        for sink in ("mlflow", "clearml", "hub"):
            road.worker(sink)
        trainer = road.train(*arguments(road, "t"), run=run)
        assert trainer.wait(180) == 0, trainer.printed()
        road.wait_until_delivered(run, "mlflow", "clearml", "hub")
        folder = road.runs / "t"
        check_mlflow(MlflowClient(mlflow_server.uri), run, folder)
        check_clearml(clearml_server, folder)
        check_hub(hub, folder)
    finally:
        hub.kill()


def check_mlflow(client: MlflowClient, run: str, folder: Path) -> None:
    found = mlflow_run(client, run)
    assert found.info.status == "FINISHED"
    assert found.data.params["imgsz"] == "64"
    values = mlflow_values(client, found)
    assert values.keys() >= INFO
    check_values(values, folder, has_final=True)
    files = mlflow_files(client, found)
    assert {Path(one).parts[1] for one in files if one.startswith("plots/")} >= PLOTS
    assert any(one.startswith("images/Mosaic/") for one in files)
    assert any(one.startswith("images/Validation/") for one in files)
    assert "results.csv" in files
    final = found.data.tags["trainbus.checkpoint.final"]
    path = client.download_artifacts(found.info.run_id, final)
    assert Path(path).read_bytes() == (folder / "weights/best.pt").read_bytes()


def check_clearml(server: ClearmlServer, folder: Path) -> None:
    (task,) = server.tasks()
    assert task["status"] == "completed"
    scalars: dict[str, dict[int, float]] = {
        "/".join((metric, variant)): values
        for (metric, variant), values in server.scalars(task["id"]).items()
    }
    check_values(scalars, folder)
    assert set(scalars["Epoch Time/Epoch Time"]) == {0, 1, 2}
    assert server.single_values(task["id"]).keys() >= INFO
    assert server.hyperparams(task["id"])["General"]["epochs"] == "3"
    titles = {metric for metric, _, _ in server.images(task["id"])}
    assert titles == {"Mosaic", "Validation"}
    assert {metric for metric, _, _ in server.plots(task["id"])} == PLOTS
    model = server.models(task["id"])["final"]
    assert server.file(model["uri"]) == (folder / "weights/best.pt").read_bytes()


def check_hub(hub: HubProcess, folder: Path) -> None:
    (model,) = hub.models()
    assert model["status"] == "trained"
    epochs = {int(epoch): json_of(values) for epoch, values in model["metrics"].items()}
    names = {name for values in epochs.values() for name in values}
    check_values(
        {name: {e: one[name] for e, one in epochs.items() if name in one} for name in names},
        folder,
    )
    assert epochs[0].keys() >= INFO
    assert not INFO & epochs[1].keys()
    final = model["uploads"][-1]
    assert final["size"] == (folder / "weights/best.pt").stat().st_size


def json_of(values: Any) -> dict[str, float]:
    return dict(json.loads(values) if isinstance(values, str) else values)


def test_an_attached_model_is_on_platform_with_what_it_is_and_how_it_did(
    road: YoloRoad,
) -> None:
    with running_platform() as platform:
        road.services = {
            "ULTRALYTICS_API_KEY": PLATFORM_KEY,
            "ULTRALYTICS_PLATFORM_URL": platform.url,
            "TRAINBUS_PLATFORM_PLAN": "pro",
        }
        road.worker("hub")
        options = {"project": "me/squares", "run_id": "attached", "name": "t"}
        given = dict(word.split("=", 1) for word in arguments(road, "t")[2:] if "=" in word)
        given |= {"epochs": 3, "imgsz": 64, "batch": 8, "workers": 0, "seed": 1}  # type: ignore[dict-item]  # the call takes numbers
        given |= {"amp": False, "exist_ok": True, "lr0": 5e-4, "warmup_epochs": 0, "mosaic": 0}  # type: ignore[dict-item]  # as above
        model_file = given.pop("model")
        texts = (json.dumps(options), json.dumps(given))
        trainer = road.python("-c", ATTACHED, model_file, *texts)
        assert trainer.wait(180) == 0, trainer.printed()
        road.wait_until_delivered("attached", "hub")
        model = next(one for one in platform.models.values() if one.slug == "t")
        (started,) = model.of("training_started")
        assert started["trainArgs"]["epochs"] == "3"
        assert started["environment"]["ultralyticsVersion"] == road.yolo.version
        epochs = {data["epoch"]: data for data in model.of("epoch_end")}
        renamed = {
            "lr/pg0" if name == "lr" else name: {e: epochs[e]["metrics"][name] for e in epochs}
            for name in epochs[0]["metrics"]
        }
        check_values(renamed, road.runs / "t")
        assert epochs[0]["modelInfo"].keys() == {"parameters", "gflops", "speedMs"}
        assert all(data["fitness"] is not None for data in epochs.values())
        (complete,) = model.of("training_complete")
        assert complete["classNames"] == ["red", "blue"]
        assert {"pr_curve", "confusion_matrix"} <= {one["type"] for one in complete["plots"]}
        assert model.weights is not None
        assert platform.refused == []
        # The validation afterwards has a run of its own.
        wait_until(lambda: len(platform.models) == 2, 60, "the run of the validation")


def test_a_killed_training_that_is_resumed_goes_on_with_its_run(
    road: YoloRoad, mlflow_server: MlflowServer
) -> None:
    road.services = {"MLFLOW_TRACKING_URI": mlflow_server.uri}
    road.worker("mlflow")
    folder = road.runs / "t"
    program = [road.yolo.command, *arguments(road, "t", epochs="12")]
    environ = {"TRAINBUS_PROJECT": "squares"}
    first = road.hooked(*program, environ=environ)
    wait_until(
        lambda: (folder / "results.csv").is_file() and len(epochs_of(folder)) >= 3,
        120,
        "three epochs",
    )
    first.kill()
    run = json.loads((folder / "trainbus.json").read_text())["run"]
    last = folder / "weights/last.pt"
    second = road.hooked(road.yolo.command, "train", "resume", f"model={last}", environ=environ)
    assert second.wait(180) == 0, second.printed()
    road.wait_until_delivered(run, "mlflow")
    client = MlflowClient(mlflow_server.uri)
    found = mlflow_run(client, run)
    assert found.info.status == "FINISHED"
    assert found.data.params["epochs"] == "12"
    assert found.data.params["Resume 2/resume"] == str(last)
    values = mlflow_values(client, found)
    assert set(values["train/box_loss"]) == set(range(12))
    assert "trainbus.dead" not in found.data.tags


INHERITED = """
import subprocess, sys
from types import SimpleNamespace

from ultralytics.utils.callbacks.base import get_default_callbacks
from ultralytics.utils.dist import generate_ddp_file

child = "import sys; from ultralytics.utils.callbacks.base import default_callbacks as found; "
child += "print(*(one.__module__ for one in found['on_train_end']))"
subprocess.run([sys.executable, "-c", child], check=True)
if sys.argv[1] == "pickled":
    # What a DDP training writes for its processes, and how they read it.
    trainer = SimpleNamespace(args=SimpleNamespace(), model=None, callbacks=get_default_callbacks())
    script = generate_ddp_file(trainer)
    read = "import sys; from ultralytics.utils.patches import torch_load; "
    read += "state = torch_load(sys.argv[1], map_location='cpu'); "
    read += "print(*(one.__module__ for one in state['callbacks']['on_train_end']))"
    subprocess.run([sys.executable, "-c", read, script[:-3] + ".pt"], check=True)
"""


def test_the_processes_of_a_ddp_training_inherit_the_callbacks(road: YoloRoad) -> None:
    # Up to 8.4.115 they are new processes that know nothing, later ones read a pickle too.
    is_pickled = road.yolo.version != "8.4.90"
    parent = road.hooked("-c", INHERITED, "pickled" if is_pickled else "", environ={})
    assert parent.wait(120) == 0, parent.printed()
    ours = "publishers.integrations.ultralytics.hooks"
    assert parent.stdout.split().count(ours) == (2 if is_pickled else 1)
