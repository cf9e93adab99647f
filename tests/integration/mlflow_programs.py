"""Programs as users of MLflow write them, and what an MLflow holds after they ran.

None of them knows of trainbus: they run with ``MLFLOW_TRACKING_URI`` set to one thing or the other.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml  # type: ignore[import-untyped]  # comes with mlflow, ships no types
from mlflow.entities import LoggedModel, Run
from mlflow.tracking import MlflowClient

__all__ = ["AUTOLOG", "FLUENT", "MODELS", "NESTED", "contents", "differences"]

FLUENT = """
import math
import mlflow
from mlflow.entities import Metric, Param, RunTag

mlflow.set_experiment("team/digits (a)")
with mlflow.start_run(run_name="fluent", tags={"team": "vision"}, description="A *note*.") as run:
    mlflow.log_param("lr", 0.1)
    mlflow.log_params({"depth": 3, "opt": "adam", "empty": ""})
    for step in range(50):
        mlflow.log_metric("loss", 1 / (step + 1), step=step, timestamp=1700000000000 + 7 * step)
    mlflow.log_metrics({"val/acc": 0.5, "val/f1": 0.25}, step=3, timestamp=1700000000123)
    mlflow.log_metric("no step", 2.5, timestamp=1700000000001)
    mlflow.log_metric("nan", math.nan, step=1, timestamp=1700000000002)
    mlflow.log_metric("later", 1.5, step=9, timestamp=1700000000003, synchronous=False).wait()
    client = mlflow.MlflowClient()
    client.log_batch(
        run.info.run_id,
        [Metric("batch", i / 3, 1700000001000 + i % 5, i) for i in range(700)],
        [Param(f"p{i}", str(i)) for i in range(5)],
        [RunTag("of batch", "yes")],
    )
    mlflow.set_tag("stage", "dev")
    mlflow.log_text("grüße", "notes/deep/a.txt")
    mlflow.log_dict({"a": [1, 2]}, "config.yaml")
    with open("weights.bin", "wb") as file:
        file.write(bytes(range(256)) * 1000)
    mlflow.log_artifact("weights.bin")
    mlflow.log_artifact("weights.bin", "copies/of it")
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes/deep/a.txt") == "grüße"
    data = mlflow.get_run(run.info.run_id).data
    assert data.metrics["loss"] == 0.02 and data.params["depth"] == "3"
    assert data.tags["stage"] == "dev" and data.tags["mlflow.runName"] == "fluent"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.timestamp) for m in history][-1] == (49, 1700000000000 + 7 * 49)
try:
    mlflow.start_run(run_name="failing")
    mlflow.log_param("lr", 1)
    mlflow.log_param("lr", 2)
except mlflow.exceptions.MlflowException as error:
    assert "Changing param values is not allowed" in str(error)
    mlflow.end_run("FAILED")
client.log_metric(run.info.run_id, "after the end", 4, timestamp=1700000000004, step=2)
client.set_tag(run.info.run_id, "after", "the end")
mlflow.start_run(run_name="left open")
mlflow.log_metric("left open", 1, timestamp=1700000000005)
"""

NESTED = """
import threading
import mlflow

with mlflow.start_run(run_name="parent"):
    mlflow.log_param("which", "parent")
    for number in range(3):
        with mlflow.start_run(run_name=f"child {number}", nested=True):
            mlflow.log_metric("m", number, step=number, timestamp=1700000000000 + number)

def train(number):
    with mlflow.start_run(run_name=f"thread {number}"):
        for step in range(100):
            mlflow.log_metric("m", number * step, step=step, timestamp=1700000000000 + step)

threads = [threading.Thread(target=train, args=(number,)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
found = mlflow.search_runs(filter_string="params.which = 'parent'")
assert list(found["status"]) == ["FINISHED"], found
"""

AUTOLOG = """
import mlflow
import numpy as np
from sklearn.linear_model import LogisticRegression

mlflow.set_experiment("autolog")
mlflow.sklearn.autolog()
inputs = np.arange(20.0).reshape(10, 2)
with mlflow.start_run(run_name="autolog"):
    LogisticRegression(C=0.5).fit(inputs, [0] * 5 + [1] * 5)
"""

MODELS = """
import mlflow
import numpy as np
from sklearn.linear_model import LinearRegression

mlflow.set_experiment("models")
inputs = np.arange(10.0).reshape(10, 1)
model = LinearRegression().fit(inputs, 2 * inputs[:, 0])
with mlflow.start_run(run_name="models") as run:
    mlflow.log_param("alpha", 0.5)
    mlflow.log_metric("mse", 0.25, step=0, timestamp=1700000000000)
    signature = mlflow.models.infer_signature(inputs, model.predict(inputs))
    info = mlflow.sklearn.log_model(
        model, name="line", signature=signature, registered_model_name="line-model",
        params={"extra": "1"}, tags={"purpose": "test"},
    )
    mlflow.log_metric("rmse", 0.5, step=0, timestamp=1700000000001, model_id=info.model_id)
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/line")
    assert round(float(loaded.predict(inputs)[3]), 6) == 6.0
    mlflow.sklearn.log_model(model, name="plain", signature=signature)
mlflow.register_model(f"runs:/{run.info.run_id}/plain", "later-model")
mlflow.pyfunc.load_model("models:/later-model/1")
"""

_UNSTEADY_IN_MLMODEL = (
    "artifact_path",
    "model_id",
    "model_size_bytes",
    "model_uuid",
    "run_id",
    "utc_time_created",
)


def contents(uri: str, *, has_times: bool = True) -> dict[str, Any]:
    """All that an MLflow holds, with its own ids replaced by names.

    Args:
        uri: Its tracking URI.
        has_times: The program gave its points times of its own.
    """
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiments = {one.experiment_id: one.name for one in client.search_experiments()}
    runs = client.search_runs(list(experiments), max_results=1000)
    named = {run.info.run_id: str(run.info.run_name) for run in runs}
    models = client.search_logged_models(list(experiments))
    return {
        "runs": {
            (experiments[run.info.experiment_id], run.info.run_name): _run(
                client, run, named, has_times
            )
            for run in runs
        },
        "models": sorted(
            (_model(model, named, has_times) for model in models), key=lambda one: str(one["name"])
        ),
        "versions": sorted(
            (
                version.name,
                str(version.version),
                named.get(version.run_id),
                version.tags.get("purpose"),
            )
            for version in client.search_model_versions()
        ),
    }


def differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    """Where two contents differ, one line each."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = {**wanted, **found}
        parts = [(found.get(k, "nothing"), wanted.get(k, "nothing"), f"{where}/{k}") for k in keys]
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        parts = [(*pair, f"{where}[{i}]") for i, pair in enumerate(zip(found, wanted, strict=True))]
    else:
        return [] if found == wanted else [f"{where}: {found!r:.200} is not {wanted!r:.200}"]
    return [line for part in parts for line in differences(*part)]


def _run(client: MlflowClient, run: Run, named: dict[str, str], has_times: bool) -> dict[str, Any]:
    points = {
        key: sorted(
            (point.step, point.timestamp if has_times else 0, repr(point.value))
            for point in client.get_metric_history(run.info.run_id, key)
        )
        for key in run.data.metrics
    }
    tags = {
        key: named.get(text, text) if key == "mlflow.parentRunId" else text
        for key, text in run.data.tags.items()
        # The bus tells which commit the program is of, MLflow only where GitPython is installed.
        if not key.startswith(("trainbus.", "mlflow.source.git."))
    }
    outputs = run.outputs.model_outputs if run.outputs else []
    return {
        "status": run.info.status,
        "params": dict(run.data.params),
        "tags": tags,
        "points": points,
        "files": _files(run.info.artifact_uri),
        "outputs": len(outputs),
    }


def _model(model: LoggedModel, named: dict[str, str], has_times: bool) -> dict[str, Any]:
    root = _path(model.artifact_location)
    described = yaml.safe_load((root / "MLmodel").read_text())
    tags = {k: v for k, v in model.tags.items() if not k.startswith(("trainbus.", "mlflow.source"))}
    return {
        "name": model.name,
        "status": str(model.status),
        "type": model.model_type,
        "run": named.get(model.source_run_id),
        "params": dict(model.params),
        "tags": tags,
        "points": sorted(
            (one.key, one.step, one.timestamp if has_times else 0, one.value)
            for one in model.metrics or []
        ),
        "MLmodel": {k: v for k, v in described.items() if k not in _UNSTEADY_IN_MLMODEL},
        "files": {
            # The archive holds times of its own.
            path: "there" if path == "model.skops" else digest
            for path, digest in _files(model.artifact_location).items()
            # MLflow leaves a note in its own store when it loads a registered version.
            if path not in {"MLmodel", "registered_model_meta"}
        },
    }


def _files(location: str) -> dict[str, str]:
    root = _path(location)
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def _path(location: str) -> Path:
    return Path(unquote(urlsplit(location).path))
