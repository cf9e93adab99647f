"""The stand-in of ClearML is what the real SDK takes for a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fixtures.clearml.sdk import run_sdk
from tests.fixtures.clearml.server import ClearmlServer
from tests.fixtures.clearml.shape import differences
from tests.fixtures.processes import Processes

SCRIPT = """
import os, sys
from clearml import OutputModel, Task

folder, names = sys.argv[1], sys.argv[2:]
for name in names:
    task = Task.create(project_name="sdk project", task_name=name)
    task.mark_started(force=True)
    task.set_tags(["Ultralytics"])
    task.connect({"lr0": 0.01, "epochs": 3}, name="General")
    logger = task.get_logger()
    for step in range(5):
        logger.report_scalar("train", "box_loss", value=step / 2, iteration=step)
    logger.report_single_value("mAP50", 0.9)
    picture = os.path.join(folder, "picture.png")
    logger.report_image("Mosaic", "train_batch0", iteration=0, local_path=picture)
    logger.report_media("media", "file", iteration=1, local_path=picture)
    figure = {"data": [], "layout": {"title": "results"}}
    logger.report_plotly("results", "plot", iteration=0, figure=figure)
    model = OutputModel(task=task, name="best of " + name, framework="PyTorch")
    model.set_upload_destination(task.get_output_destination() or os.environ["CLEARML_FILES_HOST"])
    model.update_weights(os.path.join(folder, "best.pt"), auto_delete_file=False, iteration=4,
                         async_enable=False)
    logger.flush(wait=True)
    task.flush(wait_for_uploads=True)
    task.mark_completed()
    task.close()
print("done")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG picture")
    (tmp_path / "best.pt").write_bytes(b"weights")
    return tmp_path


def test_the_real_sdk_runs_two_tasks_against_the_stand_in(
    clearml_server: ClearmlServer, processes: Processes, folder: Path
) -> None:
    names = ["run one", "run two"]
    process = run_sdk(processes, clearml_server, folder, SCRIPT, str(folder), *names)
    assert "done" in process.stdout
    for name in names:
        assert clearml_server.status(name) == "completed"
        assert clearml_server.task(name)["tags"] == ["Ultralytics"]
        assert clearml_server.hyperparams(name)["General"] == {"lr0": "0.01", "epochs": "3"}
        assert clearml_server.scalars(name) == {
            ("train", "box_loss"): {step: step / 2 for step in range(5)}
        }
        assert clearml_server.single_values(name) == {"mAP50": 0.9}
        assert clearml_server.images(name) == {
            ("Mosaic", "train_batch0", 0): b"\x89PNG picture",
            ("media", "file", 1): b"\x89PNG picture",
        }
        ((_, plot),) = clearml_server.plots(name).items()
        assert plot["layout"]["title"] == "plot"
        (model,) = clearml_server.models(name).values()
        assert (model["name"], model["framework"]) == (f"best of {name}", "PyTorch")
        assert clearml_server.file(model["uri"]) == b"weights"
    assert clearml_server.project("sdk project")["basename"] == "sdk project"


def test_what_the_sdk_sends_has_the_shape_of_what_was_recorded(
    clearml_server: ClearmlServer, processes: Processes, folder: Path
) -> None:
    run_sdk(processes, clearml_server, folder, SCRIPT, str(folder), "run one")
    for endpoint in ("projects.get_all", "tasks.create", "tasks.started", "models.get_by_id"):
        for request in clearml_server.requests_of(endpoint):
            assert differences(endpoint, request.body) == set(), json.dumps(request.body)
    events = [
        event
        for request in clearml_server.requests_of("events.add_batch")
        for event in request.body
        if event["type"] != "log"
    ]
    assert {event["type"] for event in events} >= {"training_stats_scalar", "plot"}
    for event in events:
        assert differences("events.add_batch", event) == set(), event
