"""MLflow's tracking store of the plugin: what is logged goes to the bus."""

from __future__ import annotations

import atexit
import json
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from mlflow.entities import (
    DatasetInput,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunInfo,
    RunStatus,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.utils.async_logging.run_operations import RunOperations
from mlflow.utils.name_utils import _generate_random_name
from mlflow.utils.search_utils import SearchUtils

from publishers.integrations.mlflow import names
from publishers.integrations.mlflow.experiments import Experiments
from publishers.integrations.mlflow.files import log_dataset
from publishers.integrations.mlflow.ledger import Ledger, current
from publishers.integrations.mlflow.loggedmodels import LoggedModels
from publishers.integrations.mlflow.runs import NAME_TAG, RunFacts
from publishers.integrations.mlflow.unsupported import invalid, refuse_the_rest

__all__ = ["TrainbusStore"]

_WORK_AS_THEY_ARE = frozenset(
    {
        "end_async_logging",
        "flush_async_logging",
        "get_metric_history_bulk_interval",
        "get_metric_history_bulk_interval_from_steps",
        "log_metric_async",
        "log_param_async",
        "search_runs",
        "set_tag_async",
        "shut_down_async_logging",
    }
)
"""Methods of MLflow's base class that only call others."""

_LOGGED_MODELS_TAG = "mlflow.log-model.history"


@refuse_the_rest(AbstractStore, _WORK_AS_THEY_ARE)
class TrainbusStore(Experiments, LoggedModels, AbstractStore):
    """Publishes what MLflow logs; answers from what this process has logged.

    Nothing waits for the network, and asynchronous logging is the same as synchronous: the call
    returns when the journal has the line, which a kill does not undo.
    """

    def __init__(
        self,
        store_uri: str | None = None,
        artifact_uri: str | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Begin.

        Args:
            store_uri: ``trainbus:``; where the bus is, its own variables say.
            artifact_uri: Not used: the bus has an artifact store.
            ledger: The memory to use; by default the process's.

        Raises:
            MlflowException: The URI says more, or a setting of the bus is wrong.
        """
        super().__init__()
        if (store_uri or names.TRACKING_URI).rstrip("/") != names.TRACKING_URI:
            raise invalid(
                f"MLFLOW_TRACKING_URI={store_uri!r}: it is {names.TRACKING_URI!r} and nothing "
                "behind it; the broker is set in TRAINBUS_BROKER"
            )
        self._ledger = ledger or current()
        self._is_watching_exit = False

    def create_run(
        self,
        experiment_id: str,
        user_id: str,
        start_time: int,
        tags: Sequence[RunTag] | None,
        run_name: str | None,
    ) -> Run:
        """Begin a run on the bus."""
        texts = {tag.key: str(tag.value) for tag in tags or ()}
        name = run_name or texts.get(NAME_TAG) or _generate_random_name()
        if texts.get(NAME_TAG, name) != name:
            raise invalid(
                "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with "
                f"different values (run_name='{run_name}', mlflow.runName='{texts[NAME_TAG]}')."
            )
        experiment = self._ledger.experiment(experiment_id)
        of_experiment = {f"experiment.{key}": text for key, text in experiment.tags.items()}
        start_ms = start_time or int(time.time() * 1000)
        facts = RunFacts("", str(experiment_id), str(user_id), name, start_ms)
        run = self._ledger.start_run(facts, {**of_experiment, **texts})
        if not self._is_watching_exit:
            # Registered after the first run, so that it comes before that run is ended at exit.
            self._is_watching_exit = True
            atexit.register(self._publish_all_points)
        return run.entity()

    def get_run(self, run_id: str) -> Run:
        """A run with what this process has logged."""
        return self._ledger.run(run_id).entity()

    def update_run_info(
        self, run_id: str, run_status: int | None, end_time: int | None, run_name: str | None
    ) -> RunInfo:
        """End a run, or go on with one."""
        run = self._ledger.run(run_id)
        status = run.facts.status if run_status is None else RunStatus.to_string(run_status)
        if run_status is not None and RunStatus.is_terminated(run_status):
            for model in self._models_of(run_id):
                self._publish_points(model)
        run.update(status, end_time, run_name)
        return run.info()

    def log_metric(self, run_id: str, metric: Metric) -> None:
        """Log one point."""
        self._log_metrics(run_id, [metric])

    def log_param(self, run_id: str, param: Param) -> None:
        """Log one param."""
        self._ledger.run(run_id).log_params([param])

    def set_tag(self, run_id: str, tag: RunTag) -> None:
        """Set one tag."""
        self._ledger.run(run_id).set_tags([tag])

    def delete_tag(self, run_id: str, key: str) -> None:
        """Forget a tag here and empty it on the bus, which cannot take it back."""
        self._ledger.run(run_id).delete_tag(key)

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric],
        params: Sequence[Param],
        tags: Sequence[RunTag],
    ) -> None:
        """Log points, params and tags; nothing of it where a param would change."""
        run = self._ledger.run(run_id)
        run.check_params(params)
        if metrics:
            self._log_metrics(run_id, metrics)
        if params:
            run.log_params(params)
        if tags:
            run.set_tags(tags)

    def log_batch_async(
        self,
        run_id: str,
        metrics: Sequence[Metric],
        params: Sequence[Param],
        tags: Sequence[RunTag],
    ) -> RunOperations:
        """Log at once, and give what says so: a queue would be lost with the process."""
        done: Future[None] = Future()
        try:
            self.log_batch(run_id, metrics, params, tags)
            done.set_result(None)
        except MlflowException as error:
            done.set_exception(error)
        return RunOperations([done])

    def get_metric_history(
        self,
        run_id: str,
        metric_key: str,
        max_results: int | None = None,
        page_token: str | None = None,
    ) -> PagedList[Metric]:
        """What this process has logged of a metric: at least the latest 100,000 points."""
        history = self._ledger.run(run_id).history(metric_key)
        return PagedList(history if max_results is None else history[:max_results], None)

    def _search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str | None,
        run_view_type: int,
        max_results: int,
        order_by: list[str] | None,
        page_token: str | None,
    ) -> tuple[list[Run], str | None]:
        runs = list(self._ledger.runs.values())
        if run_view_type == ViewType.DELETED_ONLY:
            runs = []
        wanted = [run.entity() for run in runs if run.facts.experiment in set(experiment_ids)]
        ordered = SearchUtils.sort(SearchUtils.filter(wanted, filter_string), order_by)
        found, token = SearchUtils.paginate(ordered, page_token, max_results)
        return found, token

    def log_inputs(
        self,
        run_id: str,
        datasets: Sequence[DatasetInput] | None = None,
        models: Sequence[LoggedModelInput] | None = None,
    ) -> None:
        """Log datasets as files ``datasets/…json``; models it began with are known here alone."""
        run = self._ledger.run(run_id)
        for dataset in datasets or ():
            log_dataset(self._ledger, run_id, dataset)
        run.add_inputs(datasets or (), models or ())

    def log_outputs(self, run_id: str, models: Sequence[LoggedModelOutput]) -> None:
        """Note which models came out of a run; the worker links them by their events."""
        self._ledger.run(run_id).add_outputs(models)

    def record_logged_model(self, run_id: str, mlflow_model: Any) -> None:
        """Add a model to the tag that MLflow 2 kept a run's models in."""
        run = self._ledger.run(run_id)
        run.set_tags([RunTag(_LOGGED_MODELS_TAG, _with(run.tag(_LOGGED_MODELS_TAG), mlflow_model))])

    def _log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        self._ledger.run(run_id).log_metrics(metrics)
        self._add_points(run_id, metrics)


def _with(history: str | None, mlflow_model: Any) -> str:
    """The tag of a run's models, with one more."""
    try:
        known = json.loads(history or "[]")
    except ValueError:
        known = []
    return json.dumps([*known, mlflow_model.get_tags_dict()])
