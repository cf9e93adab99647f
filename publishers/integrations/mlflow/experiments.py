"""The experiments of MLflow: projects of the bus, which nobody is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow.entities import Experiment, ExperimentTag, LifecycleStage, ViewType
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.tracking import SEARCH_MAX_RESULTS_DEFAULT
from mlflow.utils.search_utils import SearchExperimentsUtils, SearchUtils

from publishers.integrations.mlflow import names
from publishers.integrations.mlflow.ledger import Ledger
from publishers.integrations.mlflow.unsupported import invalid, unsupported

__all__ = ["Experiments"]


class Experiments:
    """The part of the tracking store that is about experiments."""

    _ledger: Ledger

    def search_experiments(
        self,
        view_type: int = ViewType.ACTIVE_ONLY,
        max_results: int = SEARCH_MAX_RESULTS_DEFAULT,
        filter_string: str | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[Experiment]:
        """The experiments that this process has named."""
        known = [] if view_type == ViewType.DELETED_ONLY else list(self._ledger.experiments)
        found = SearchExperimentsUtils.filter(map(self.get_experiment, known), filter_string)
        order = order_by or ["creation_time DESC", "experiment_id ASC"]
        ordered = SearchExperimentsUtils.sort(found, order)
        return PagedList(*SearchUtils.paginate(ordered, page_token, max_results))

    def create_experiment(
        self, name: Any, artifact_location: str | None, tags: Sequence[ExperimentTag] | None
    ) -> str:
        """Name a project of the bus. Nobody is asked whether others have named it too."""
        if not isinstance(name, str) or not name:
            raise invalid("an experiment has a name")
        if artifact_location:
            raise unsupported(
                f"artifact_location={artifact_location!r}",
                "leave it out: artifacts go to the store of the bus (TRAINBUS_STORE)",
            )
        identifier = self._ledger.add_experiment(name)
        for tag in tags or ():
            self.set_experiment_tag(identifier, tag)
        return identifier

    def get_experiment(self, experiment_id: str) -> Experiment:
        """An experiment by its id, which is made of its name."""
        known = self._ledger.experiment(experiment_id)
        return Experiment(
            experiment_id=str(experiment_id),
            name=known.name,
            artifact_location=f"{names.ARTIFACT_SCHEME}:/experiments/{experiment_id}",
            lifecycle_stage=LifecycleStage.ACTIVE,
            tags=[ExperimentTag(key, text) for key, text in known.tags.items()],
            creation_time=known.created_ms,
            last_update_time=known.created_ms,
        )

    def get_experiment_by_name(self, experiment_name: str) -> Experiment | None:
        """An experiment that this process has named; None for any other, as MLflow has it."""
        for identifier, known in list(self._ledger.experiments.items()):
            if known.name == experiment_name:
                return self.get_experiment(identifier)
        return None

    def set_experiment_tag(self, experiment_id: str, tag: ExperimentTag) -> None:
        """Note a tag: runs that begin later carry it as ``experiment.{name}``."""
        self._ledger.experiment(experiment_id).tags[tag.key] = str(tag.value)

    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        """Forget a tag: runs that begin later do not carry it."""
        if self._ledger.experiment(experiment_id).tags.pop(key, None) is None:
            raise invalid(f"experiment {experiment_id!r} has no tag {key!r}")
