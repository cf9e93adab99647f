"""What the live ClearML sink wrote, as the real SDK reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from bus.artifacts import ArtifactStore
from bus.kinds import Artifact, Checkpoint, Params
from tests.fixtures.clearml.sdk import run_sdk
from tests.fixtures.feed import Feed, marks_of
from tests.fixtures.processes import Processes
from tests.integration.clearml_feed import QUIET, make_live, task_of

if TYPE_CHECKING:
    from tests.fixtures.clearml.server import ClearmlServer

pytestmark = QUIET

SCRIPT = """
import json, pathlib, sys
from clearml import Task

task = Task.get_task(task_id=sys.argv[1])
models = task.models["output"]
(role,) = models.keys()
model = models[role]
params = task.get_parameters(cast=True)
print(json.dumps({
    "name": task.name,
    "project": task.get_project_name(),
    "status": task.get_status(),
    "tags": task.get_tags(),
    "comment": task.comment,
    "params": {k: v for k, v in params.items() if not k.startswith("properties/")},
    "user": task.export_task()["hyperparams"]["properties"]["trainbus.user"]["value"],
    "model": {
        "role": role,
        "name": model.name,
        "framework": model.framework,
        "epoch": model.get_metadata("epoch"),
        "bytes": pathlib.Path(model.get_local_copy()).read_text(),
    },
    "artifact": task.artifacts["data/labels.csv"].hash,
    "artifact_bytes": pathlib.Path(task.artifacts["data/labels.csv"].get_local_copy()).read_text(),
}))
"""


async def test_the_sdk_reads_what_the_sink_wrote(
    clearml_server: ClearmlServer, tmp_path: Path, processes: Processes
) -> None:
    sink = make_live(clearml_server, tmp_path)
    feed = Feed("sdk", "Team/digits")
    store = ArtifactStore((tmp_path / "store").as_uri())
    (tmp_path / "best.pt").write_text("weights")
    (tmp_path / "labels.csv").write_text("x,y")
    weights, weights_url = feed.stored(store, tmp_path / "best.pt")
    labels, labels_url = feed.stored(store, tmp_path / "labels.csv")
    params = {"lr0": 0.01, "epochs": 3, "cos_lr": True, "layers": [1, 2], "name": "x", "no": None}
    events = [
        feed.started(tags={"Ultralytics": ""}, notes="a note", user="ada"),
        feed.event("params", Params("General", params)),
        feed.event("params", Params("opt", {"kind": "adam"})),
        feed.metrics(["train/loss"], range(3)),
        feed.event("checkpoint", Checkpoint(weights, epoch=3, is_best=True), weights_url),
        feed.event("artifact", Artifact("data/labels.csv", labels), labels_url),
        feed.finished(),
    ]
    await sink.write(feed.ref, events, marks_of(events))
    await sink.close()
    key = task_of(clearml_server, feed.ref)["id"]
    process = run_sdk(processes, clearml_server, tmp_path, SCRIPT, key)
    (line,) = [line for line in process.printed().splitlines() if line.startswith('{"name"')]
    assert json.loads(line) == {
        "name": feed.ref.run_name,
        "project": "Team/digits",
        "status": "completed",
        "tags": ["trainbus-run:sdk", "Ultralytics"],
        "comment": "a note",
        "params": {
            "General/lr0": 0.01,
            "General/epochs": 3,
            "General/cos_lr": True,
            "General/layers": [1, 2],
            "General/name": "x",
            "General/no": None,
            "opt/kind": "adam",
        },
        "user": "ada",
        "model": {
            "role": "best",
            "name": feed.ref.run_name,
            "framework": "PyTorch",
            "epoch": "3",
            "bytes": "weights",
        },
        "artifact": labels.sha256,
        "artifact_bytes": "x,y",
    }
