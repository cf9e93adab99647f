"""Output models and artifacts of a task. Every function blocks and takes the Api first.

``models.create`` inserts whatever there is: the model of a role ("best", "final", the name of a
model) is looked for first, by its task and a tag, and then edited. So a run has one model for each
role, whose file and URL follow the latest checkpoint, as with the SDK.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import cast

from bus.events import Event
from bus.kinds import Artifact
from subscribers.clearml.api import Api
from subscribers.clearml.files import fetched, put
from subscribers.clearml.media import blob_of, readable_url
from subscribers.clearml.names import file_path, level, model_name, own_property, suffix_of
from subscribers.clearml.options import RunOptions
from subscribers.clearml.plan import OutputModel
from subscribers.clearml.tasks import TaskState

__all__ = ["FRAMEWORK", "log_artifact", "log_model"]

FRAMEWORK = own_property("framework")
"""The user property with the framework that the run named."""

_ROLE_TAG = "trainbus-model:"

_BY_SUFFIX = {
    ".cbm": "CatBoost",
    ".caffemodel": "Caffe",
    ".ckpt": "PyTorch",
    ".engine": "TensorRT",
    ".h5": "Keras",
    ".hdf5": "Keras",
    ".joblib": "ScikitLearn",
    ".keras": "Keras",
    ".onnx": "ONNX",
    ".pb": "TensorFlow",
    ".pkl": "ScikitLearn",
    ".plan": "TensorRT",
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".t7": "Torch",
    ".tflite": "TensorFlow_Lite",
    ".torchscript": "TorchScript",
}
"""As ``clearml.model.Framework`` guesses them, for suffixes that have one meaning."""

_FRAMEWORKS = {name.lower(): name for name in (*_BY_SUFFIX.values(), "XGBoost", "LightGBM")}


def log_model(
    api: Api, state: TaskState, model: OutputModel, options: RunOptions, framework: str
) -> None:
    """Upload the file of a model and list it among the task's output models.

    ``framework`` is the one that the run named, if any: the suffix of the file goes before.
    """
    url = readable_url(model.event) if options.store_urls else None
    blob = blob_of(model.event)
    if url is None:
        suffix = ".zip" if blob.is_folder else suffix_of(blob.name)
        path = f"{state.folder}/models/{level(model.role + suffix)}"
        with fetched(model.event) as file:
            url = put(api, file, path, options.output_destination)
    framework = framework_of(blob.name, framework)
    fields = {
        "uri": url,
        "name": model_name(model.name or state.ref.run_name),
        "comment": f"{blob.name}, sha256 {blob.sha256}",
        "labels": {},
        "project": state.project,
        "task": state.task,
        **({"framework": framework} if framework else {}),
    }
    key = _find(api, state, model.role)
    if key is None:
        tags = [_ROLE_TAG + model.role]
        body = {**fields, "tags": tags, "ready": False, "public": False}
        key = api.create("models.create", body)
    else:
        iteration = {} if model.iteration is None else {"iteration": model.iteration}
        api.call("models.edit", {"model": key, **fields, **iteration})
    if model.metadata:
        items = [{"key": k, "type": "str", "value": v} for k, v in sorted(model.metadata.items())]
        api.call("models.add_or_update_metadata", {"model": key, "metadata": items})
    entry = {"task": state.task, "name": model.role, "model": key, "type": "output"}
    api.call("tasks.add_or_update_model", entry)


def log_artifact(api: Api, state: TaskState, event: Event) -> None:
    """Upload a file or folder and list it among the task's artifacts, under its path."""
    data = cast("Artifact", event.data)
    suffix = ".zip" if data.blob.is_folder else ""
    path = f"{state.folder}/artifacts/{file_path(data.path + suffix)}"
    with fetched(event) as file:
        size = file.stat().st_size
        url = api.upload(file, path)
    artifact = {
        "key": data.path,
        "type": "archive" if data.blob.is_folder else "custom",
        "mode": "output",
        "uri": url,
        "hash": data.blob.sha256,
        "content_size": size,
        "timestamp": int(event.time),
    }
    body = {"task": state.task, "artifacts": [artifact], "force": True}
    api.call("tasks.add_or_update_artifacts", body)


def framework_of(file: str, named: str) -> str:
    """The framework as ClearML writes it: of the file's suffix, else as the run named it."""
    by_suffix = _BY_SUFFIX.get(PurePosixPath(file).suffix.lower(), "")
    return by_suffix or _FRAMEWORKS.get(named.lower(), named)


def _find(api: Api, state: TaskState, role: str) -> str | None:
    query = {
        "task": [state.task],
        "tags": [_ROLE_TAG + role],
        "only_fields": ["id", "created"],
        "order_by": ["created"],
    }
    found = api.find("models.get_all", query)
    return str(found[0]["id"]) if found else None
