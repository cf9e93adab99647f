"""The logged models of MLflow: ``model`` events of the bus."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from mlflow.entities import (
    LoggedModel,
    LoggedModelParameter,
    LoggedModelStatus,
    LoggedModelTag,
    Metric,
)
from mlflow.store.entities.paged_list import PagedList
from mlflow.utils.name_utils import _generate_random_name
from mlflow.utils.search_utils import SearchLoggedModelsUtils

from publishers.integrations.mlflow.files import publish_model
from publishers.integrations.mlflow.ledger import Ledger
from publishers.integrations.mlflow.models import VERSIONS_TAG, KnownModel
from publishers.integrations.mlflow.runs import RunFacts
from publishers.integrations.mlflow.unsupported import invalid

__all__ = ["LoggedModels"]


class LoggedModels:
    """The part of the tracking store that is about logged models."""

    _ledger: Ledger

    def create_logged_model(
        self,
        experiment_id: str,
        name: str | None = None,
        source_run_id: str | None = None,
        tags: Sequence[LoggedModelTag] | None = None,
        params: Sequence[LoggedModelParameter] | None = None,
        model_type: str | None = None,
    ) -> LoggedModel:
        """Begin a model. It is published when MLflow says that it is ready."""
        self._ledger.experiment(experiment_id)
        if source_run_id:
            self._ledger.run(source_run_id)
        model = KnownModel(
            model_id=f"m-{uuid.uuid4().hex}",
            experiment=str(experiment_id),
            name=name or _generate_random_name(),
            run_id=source_run_id or "",
            source_run=source_run_id,
            model_type=model_type,
            tags={tag.key: str(tag.value) for tag in tags or ()},
            params={param.key: str(param.value) for param in params or ()},
        )
        self._ledger.models[model.model_id] = model
        return model.entity()

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> LoggedModel:
        """Publish a model that is ready."""
        model = self._ledger.model(model_id)
        model.status = LoggedModelStatus(status)
        model.touch()
        if model.status == LoggedModelStatus.READY and not model.is_published:
            self._publish(model)
        return model.entity()

    def get_logged_model(self, model_id: str, allow_deleted: bool = False) -> LoggedModel:
        """A model that this process has made."""
        return self._ledger.model(model_id).entity()

    def search_logged_models(
        self,
        experiment_ids: Sequence[str],
        filter_string: str | None = None,
        datasets: list[dict[str, Any]] | None = None,
        max_results: int | None = None,
        order_by: list[dict[str, Any]] | None = None,
        page_token: str | None = None,
    ) -> PagedList[LoggedModel]:
        """The models that this process has made."""
        known = list(self._ledger.models.values())
        wanted = [model.entity() for model in known if model.experiment in set(experiment_ids)]
        found = SearchLoggedModelsUtils.filter_logged_models(wanted, filter_string, datasets)
        ordered = SearchLoggedModelsUtils.sort(found, order_by)
        page = SearchLoggedModelsUtils.paginate(ordered, page_token, max_results or 100)
        return PagedList(*page)

    def log_logged_model_params(
        self, model_id: str, params: Sequence[LoggedModelParameter]
    ) -> None:
        """Add params to a model."""
        model = self._ledger.model(model_id)
        model.params |= {param.key: str(param.value) for param in params}
        self._changed(model)

    def set_logged_model_tags(self, model_id: str, tags: Sequence[LoggedModelTag]) -> None:
        """Set tags of a model."""
        model = self._ledger.model(model_id)
        texts = {tag.key: str(tag.value) for tag in tags}
        model.tags |= texts
        # The registry's own numbers are the worker's to write.
        if texts.keys() - {VERSIONS_TAG}:
            self._changed(model)

    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        """Forget a tag here and empty it on the bus, which cannot take it back."""
        model = self._ledger.model(model_id)
        if model.tags.pop(key, None) is None:
            raise invalid(f"model {model_id!r} has no tag {key!r}")
        if model.is_published:
            model.tags[key] = ""
            self._changed(model)

    def _add_points(self, run_id: str, metrics: Sequence[Metric]) -> None:
        """Note which points of a run are a model's too."""
        for metric in metrics:
            model = self._ledger.models.get(metric.model_id) if metric.model_id else None
            if model is not None and model.run_id == run_id and model.add_point(metric):
                self._publish_points(model)

    def _models_of(self, run_id: str) -> list[KnownModel]:
        return [model for model in list(self._ledger.models.values()) if model.run_id == run_id]

    def _publish_all_points(self) -> None:
        for model in list(self._ledger.models.values()):
            self._publish_points(model)

    def _publish_points(self, model: KnownModel) -> None:
        while model.is_published and model.points:
            if not publish_model(self._ledger, model):
                model.points.clear()

    def _changed(self, model: KnownModel) -> None:
        model.touch()
        if model.is_published:
            publish_model(self._ledger, model)

    def _publish(self, model: KnownModel) -> None:
        if model.run_id:
            publish_model(self._ledger, model)
            self._publish_points(model)
            return
        # A model without a run: on the bus everything is of one.
        facts = RunFacts("", model.experiment, "", model.name, model.created_ms)
        run = self._ledger.start_run(facts, {"trainbus.model_only": "true"})
        model.run_id = run.facts.run_id
        publish_model(self._ledger, model)
        run.update("FINISHED", int(time.time() * 1000), None)
