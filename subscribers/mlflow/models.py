"""A finished model as MLflow's LoggedModel, and as a version of a registered model.

None of MLflow's three creating calls may be repeated, so each looks first for what an earlier try
left behind: the model and the version by the tag ``trainbus.event``, and the link to the run by the
database's refusal to store it twice. A worker killed anywhere in between goes on where it was.

Events of the same key are one model: the first makes it, a later one adds tags, params, metrics or
a registered version to it.

Every function blocks and takes the client first.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml  # type: ignore[import-untyped]  # comes with mlflow, ships no types
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from bus.errors import PermanentSinkError
from bus.events import Event
from bus.kinds import Model
from subscribers.mlflow.batches import MAX_METRICS, NonFiniteNotes, chunks_of
from subscribers.mlflow.errors import error_code
from subscribers.mlflow.extras import Extras, read_extras
from subscribers.mlflow.files import fetched
from subscribers.mlflow.names import level, model_name, registered_name
from subscribers.mlflow.tracker import Address

__all__ = ["Target", "log_model"]

_EVENT_TAG = "trainbus.event"
_VERSIONS_TAG = "mlflow.modelVersions"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a model goes.

    Attributes:
        registered: Registered model to use when the event names none; may be empty.
    """

    address: Address
    experiment: str
    run_id: str
    registered: str = ""


def log_model(client: MlflowClient, target: Target, event: Event, notes: NonFiniteNotes) -> None:
    """Upload a model, link it to its run, log its metrics and register a version when asked.

    Raises:
        StoreError: The store does not have the model, or the disk is full.
        MlflowException: As the client raises it.
    """
    data = cast("Model", event.data)
    extras = read_extras(data)
    event_key = _hash(f"{event.source}#{event.id}")
    key = _hash(f"{target.run_id}#{data.key}") if data.key else event_key
    model = _find(client, target.experiment, key)
    if model is None:
        model = _create(client, target, data, extras, key)
    else:
        _add(client, model, extras)
    if model.status != LoggedModelStatus.READY:
        _upload(client, target, event, model)
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    _link(client, target.run_id, model.model_id)
    _log_metrics(client, target, event, model.model_id, notes)
    linked = extras.metrics(str(model.model_id))
    for start in range(0, len(linked), MAX_METRICS):
        client.log_batch(target.run_id, metrics=linked[start : start + MAX_METRICS])
    # The run's own choice is made once for a model, however many events it has.
    registered, version_key = data.registered_name, event_key
    if not registered:
        registered, version_key = target.registered, key
    if registered:
        name = registered_name(registered)
        _register(client, target, name, model, version_key, extras)


def set_origin(folder: Path, model: LoggedModel, run_id: str) -> None:
    """Write into a saved MLmodel which model and run it belongs to, as MLflow itself does."""
    file = folder / "MLmodel"
    if not file.is_file():
        return
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        return
    content["model_id"] = content["model_uuid"] = model.model_id
    content["run_id"] = run_id
    content["artifact_path"] = model.artifact_location
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    file.write_text(text, encoding="utf-8")


def _find(client: MlflowClient, experiment: str, key: str) -> LoggedModel | None:
    try:
        found = client.search_logged_models(
            [experiment], filter_string=f"tags.`{_EVENT_TAG}` = '{key}'", max_results=10
        )
    except MlflowException as error:
        if error_code(error) == "ENDPOINT_NOT_FOUND":
            text = "this MLflow server knows no logged models: they need MLflow 3"
            raise PermanentSinkError(text) from error
        raise
    return min(found, key=lambda model: str(model.model_id), default=None)


def _create(
    client: MlflowClient, target: Target, data: Model, extras: Extras, key: str
) -> LoggedModel:
    own = {_EVENT_TAG: key, "trainbus.name": data.name, "trainbus.flavor": data.flavor}
    return client.create_logged_model(
        target.experiment,
        name=model_name(data.name),
        source_run_id=target.run_id,
        tags={**extras.tags, **{name: value for name, value in own.items() if value}},
        params=extras.params,
        model_type=extras.model_type,
    )


def _add(client: MlflowClient, model: LoggedModel, extras: Extras) -> None:
    """Add what a later event of a model says, or what an earlier try had no time for."""
    tags = {name: text for name, text in extras.tags.items() if model.tags.get(name) != text}
    if tags:
        client.set_logged_model_tags(model.model_id, tags)
    # MLflow does not change params.
    params = {name: text for name, text in extras.params.items() if name not in model.params}
    if params:
        client.log_model_params(model.model_id, params)


def _upload(client: MlflowClient, target: Target, event: Event, model: LoggedModel) -> None:
    blob = cast("Model", event.data).blob
    name = "model" if blob.is_folder else f"model/{level(blob.name)}"
    with fetched(event, name) as path:
        folder = path if blob.is_folder else path.parent
        set_origin(folder, model, target.run_id)
        client.log_model_artifacts(model.model_id, str(folder))


def _link(client: MlflowClient, run_id: str, model_id: str) -> None:
    outputs = client.get_run(run_id).outputs
    if outputs and any(output.model_id == model_id for output in outputs.model_outputs):
        return
    try:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    except MlflowException as error:
        if "unique" not in str(error).lower() and "duplicate" not in str(error).lower():
            raise


def _log_metrics(
    client: MlflowClient, target: Target, event: Event, model_id: str, notes: NonFiniteNotes
) -> None:
    for chunk in chunks_of([event], notes):
        metrics = [
            # MLflow would keep NaN as 0 among a model's metrics: those go to the run only.
            Metric(key, value, ms, step, model_id=None if math.isnan(value) else model_id)
            for key, ms, step, value in chunk
        ]
        client.log_batch(target.run_id, metrics=metrics)


def _register(
    client: MlflowClient, target: Target, name: str, model: LoggedModel, key: str, extras: Extras
) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error_code(error) != "RESOURCE_ALREADY_EXISTS":
            raise
    found = client.search_model_versions(f"name = '{name}' and run_id = '{target.run_id}'")
    version = next((item for item in found if item.tags.get(_EVENT_TAG) == key), None)
    is_served = target.address.web is not None
    version = version or client.create_model_version(
        name,
        # In process, MLflow looks up a models:/ source with the tracking URI of the whole process.
        source=f"models:/{model.model_id}" if is_served else model.artifact_location,
        run_id=target.run_id,
        tags={**extras.version_tags, _EVENT_TAG: key},
        description=extras.description,
        await_creation_for=0,
        model_id=model.model_id,
    )
    if not is_served:
        # A server does this itself: the model's page names its versions.
        client.set_logged_model_tags(model.model_id, {_VERSIONS_TAG: _with(version, model)})


def _with(version: ModelVersion, model: LoggedModel) -> str:
    """The versions of a model, as MLflow's pages read them, with one more."""
    try:
        known = json.loads(model.tags.get(_VERSIONS_TAG, "[]"))
    except ValueError:
        known = []
    entry = {"name": version.name, "version": version.version}
    others = [one for one in known if one != entry] if isinstance(known, list) else []
    return json.dumps([*others, entry])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
