"""MLflow's model registry of the plugin: a version becomes a ``model`` event that asks for it.

The tracker counts its versions, so that a version's number here only counts those of this process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import (
    ModelVersion,
    ModelVersionTag,
    RegisteredModel,
    RegisteredModelTag,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.model_registry.abstract_store import AbstractStore
from mlflow.utils.search_utils import SearchModelUtils, SearchModelVersionUtils, SearchUtils

from publishers.integrations.mlflow import names
from publishers.integrations.mlflow.artifacts import TrainbusArtifactRepository
from publishers.integrations.mlflow.files import publish_model
from publishers.integrations.mlflow.ledger import Ledger, current
from publishers.integrations.mlflow.models import KnownModel, Registration
from publishers.integrations.mlflow.unsupported import (
    invalid,
    refuse_the_rest,
    unknown,
    unsupported,
)

__all__ = ["TrainbusRegistry"]


@refuse_the_rest(AbstractStore, ())
class TrainbusRegistry(AbstractStore):
    """Registers by publishing; answers from what this process has registered."""

    def __init__(
        self,
        store_uri: str | None = None,
        tracking_uri: str | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Begin; see :class:`publishers.integrations.mlflow.store.TrainbusStore`."""
        super().__init__(store_uri, tracking_uri)
        self._ledger = ledger or current()

    def create_registered_model(
        self,
        name: Any,
        tags: Sequence[RegisteredModelTag] | None = None,
        description: str | None = None,
        deployment_job_id: str | None = None,
    ) -> RegisteredModel:
        """Name a registered model; the tracker has it with its first version."""
        if not isinstance(name, str) or not name:
            raise invalid("a registered model has a name")
        if tags or description or deployment_job_id:
            raise unsupported("tags and a description of a registered model")
        registered = self._ledger.registered
        with self._ledger.lock:
            if name in registered:
                raise MlflowException(
                    f"Registered Model (name={name}) already exists.",
                    error_code=RESOURCE_ALREADY_EXISTS,
                )
            registered[name] = []
        return self.get_registered_model(name)

    def get_registered_model(self, name: str) -> RegisteredModel:
        """One that this process has named."""
        versions = self._versions(name)
        now = int(time.time() * 1000)
        first = versions[0].creation_timestamp if versions else now
        return RegisteredModel(name, first, now, latest_versions=versions[-1:])

    def search_registered_models(
        self,
        filter_string: str | None = None,
        max_results: int | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[RegisteredModel]:
        """Those that this process has named."""
        known = [self.get_registered_model(name) for name in list(self._ledger.registered)]
        found = SearchModelUtils.sort(SearchModelUtils.filter(known, filter_string), order_by)
        return PagedList(*SearchUtils.paginate(found, page_token, max_results or 100))

    def get_latest_versions(
        self, name: str, stages: Sequence[str] | None = None
    ) -> list[ModelVersion]:
        """The last version that this process has registered."""
        if stages and set(stages) != {"None"}:
            raise unsupported("get_latest_versions with stages")
        return self._versions(name)[-1:]

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: Sequence[ModelVersionTag] | None = None,
        run_link: str | None = None,
        description: str | None = None,
        local_model_path: str | None = None,
        model_id: str | None = None,
    ) -> ModelVersion:
        """Publish that a model is to be registered.

        ``source`` is ``models:/{model id}``, or where a folder is that this process has logged.
        """
        texts = {tag.key: str(tag.value) for tag in tags or ()}
        registration = Registration(name, texts, description or "")
        identifier = model_id or source.removeprefix("models:/")
        if source.startswith("models:/") or model_id:
            model = self._ledger.model(identifier)
            if not publish_model(self._ledger, model, registration):
                raise unsupported(
                    f"registering model {model.name!r} once the copy of its files is gone",
                    "register it with log_model(…, registered_model_name=…), or give "
                    "TRAINBUS_MLFLOW_KEEP (bytes) room for it",
                )
        else:
            model = self._publish_folder(source, registration)
        with self._ledger.lock:
            versions = self._ledger.registered.setdefault(name, [])
            now = int(time.time() * 1000)
            version = ModelVersion(
                name,
                str(len(versions) + 1),
                now,
                now,
                description,
                source=source,
                run_id=run_id or model.source_run,
                tags=list(tags or ()),
                run_link=run_link,
                model_id=model_id,
            )
            versions.append(version)
        return version

    def get_model_version(self, name: str, version: str) -> ModelVersion:
        """One that this process has registered, by the number it had here."""
        for known in self._versions(name):
            if str(known.version) == str(version):
                return known
        raise unknown(f"version {version} of registered model {name!r}")

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        """Where the files of a version are."""
        source = str(self.get_model_version(name, version).source)
        if source.startswith("models:/"):
            return names.artifact_uri(self._ledger.model(source.removeprefix("models:/")).owner)
        return source

    def search_model_versions(
        self,
        filter_string: str | None = None,
        max_results: int | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[ModelVersion]:
        """Those that this process has registered."""
        known = [one for name in list(self._ledger.registered) for one in self._versions(name)]
        found = SearchModelVersionUtils.filter(known, filter_string)
        ordered = SearchModelVersionUtils.sort(found, order_by or [])
        return PagedList(*SearchUtils.paginate(ordered, page_token, max_results or 100))

    def _versions(self, name: str) -> list[ModelVersion]:
        found = self._ledger.registered.get(name)
        if found is None:
            raise unknown(f"registered model {name!r}")
        return list(found)

    def _publish_folder(self, source: str, registration: Registration) -> KnownModel:
        """Publish a folder that was logged as artifacts as a model of its run."""
        place = names.place_of(source)
        if place is None or not place.owner.startswith("runs/"):
            raise unsupported(f"registering {source!r}, which this process has not logged,")
        run = self._ledger.run(place.owner.removeprefix("runs/"))
        info = run.info()
        name = place.path.rpartition("/")[2] or registration.name
        key = f"files-{place.path}"[:1024]
        model = KnownModel(
            key, info.experiment_id, name, info.run_id, info.run_id, None, {}, {},
            status=LoggedModelStatus.READY,
        )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="trainbus-") as folder:
            local = TrainbusArtifactRepository(source, ledger=self._ledger).download_artifacts(
                "", folder
            )
            copy = Path(local)
            run.publish(lambda bus: model.publish(bus, copy, registration, is_frozen=False))
        return model

    def _await_model_version_creation(self, mv: Any, await_creation_for: Any) -> None:
        """Nothing to wait for: what is published arrives."""
