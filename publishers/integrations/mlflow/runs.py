"""One run of MLflow and the run on the bus that it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import (
    DatasetInput,
    LifecycleStage,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunInputs,
    RunOutputs,
    RunTag,
)

from publishers.integrations.mlflow.names import artifact_uri
from publishers.integrations.mlflow.points import Point, Points
from publishers.integrations.mlflow.unsupported import invalid
from publishers.run import Run as BusRun

__all__ = ["NAME_TAG", "PARENT_TAG", "KnownRun", "RunFacts"]

NAME_TAG = "mlflow.runName"
PARENT_TAG = "mlflow.parentRunId"

_STEERING = frozenset({NAME_TAG, PARENT_TAG})
"""Tags that are fields of the run on the bus; MLflow's worker sets them itself."""

_STATUSES = {"FINISHED": "completed", "FAILED": "failed", "KILLED": "killed"}


@dataclass(slots=True)
class RunFacts:
    """What MLflow's RunInfo says.

    Attributes:
        start_ms: Unix milliseconds.
        end_ms: Unix milliseconds; None while it runs.
    """

    run_id: str
    experiment: str
    user: str
    name: str
    start_ms: int
    status: str = "RUNNING"
    end_ms: int | None = None


@dataclass(slots=True)
class _Links:
    datasets: list[DatasetInput] = field(default_factory=list)
    models_in: list[LoggedModelInput] = field(default_factory=list)
    models_out: list[LoggedModelOutput] = field(default_factory=list)


class KnownRun:
    """A run that this process writes to. Any thread may use it.

    What is logged after its end still arrives: the run is opened again for it and closed at once.
    """

    def __init__(
        self,
        facts: RunFacts,
        start: Callable[[int | None], BusRun],
        on_end: Callable[[BusRun], None],
        attempt: int | None = 1,
    ) -> None:
        """Begin the run on the bus.

        Args:
            facts: Who it is.
            start: Begins an attempt of it on the bus, by its number.
            on_end: Told of every attempt that has ended, and may not be stored yet.
            attempt: The first attempt's number; None for what the surroundings say.

        Raises:
            ConfigError: The settings of the bus are wrong.
        """
        self.facts = facts
        self._start = start
        self._on_end = on_end
        self._lock = threading.RLock()
        self._params: dict[str, str] = {}
        self._tags: dict[str, str] = {NAME_TAG: facts.name}
        self._points = Points()
        self._links = _Links()
        self._bus = start(attempt)
        self._is_open = True

    def reset_after_fork(self) -> None:
        """Make the copy in a forked child usable: another thread may have held the lock."""
        self._lock = threading.RLock()

    def publish(self, action: Callable[[BusRun], None]) -> None:
        """Do something with the run on the bus, also after its end."""
        with self._lock:
            if self._is_open:
                action(self._bus)
                return
            self._reopen()
            action(self._bus)
            self._close()

    def log_metrics(self, metrics: Sequence[Metric]) -> None:
        """Log points with their own times.

        Raises:
            MlflowException: One is no number, or its time or step no whole number of 64 bits.
        """
        points = [(metric.key, _point(metric)) for metric in metrics]
        with self._lock:
            # ``log_model`` logs the points of its step once more, as the model's too.
            fresh = [
                (key, point)
                for metric, (key, point) in zip(metrics, points, strict=True)
                if metric.model_id is None or not self._points.has(key, point)
            ]
            for key, point in fresh:
                self._points.add(key, point)
            if fresh:
                self.publish(lambda bus: _log_rows(bus, fresh))

    def check_params(self, params: Iterable[Param]) -> None:
        """Refuse to change one, as MLflow does.

        Raises:
            MlflowException: It would.
        """
        wanted: dict[str, str] = {}
        for param in params:
            old = self._params.get(param.key, wanted.setdefault(param.key, param.value))
            if old != param.value:
                raise invalid(
                    f"Changing param values is not allowed. Param with key={param.key!r} was "
                    f"already logged with value={old!r} for run ID={self.facts.run_id!r}. "
                    f"Attempted logging new value {param.value!r}."
                )

    def log_params(self, params: Sequence[Param]) -> None:
        """Log params.

        Raises:
            MlflowException: One would change.
        """
        with self._lock:
            self.check_params(params)
            new = {one.key: one.value for one in params if one.key not in self._params}
            self._params |= new
            if new:
                self.publish(lambda bus: bus.params(new))

    def set_tags(self, tags: Sequence[RunTag]) -> None:
        """Set tags. A new name of the run is known to this process alone: events carry the first.

        Raises:
            MlflowException: The run would get another parent.
        """
        texts = {tag.key: str(tag.value) for tag in tags}
        with self._lock:
            if texts.get(PARENT_TAG, self._tags.get(PARENT_TAG)) != self._tags.get(PARENT_TAG):
                raise invalid(
                    f"{PARENT_TAG} is set when a run is made, with start_run(nested=True) or "
                    "start_run(parent_run_id=…), and not changed afterwards"
                )
            self.remember_tags(texts)
            self.facts.name = texts.get(NAME_TAG, self.facts.name)
            outside = {key: text for key, text in texts.items() if key not in _STEERING}
            if outside:
                self.publish(lambda bus: bus.tags(outside))

    def remember_tags(self, tags: Mapping[str, str]) -> None:
        """Note tags that the bus has already."""
        with self._lock:
            self._tags |= tags

    def tag(self, key: str) -> str | None:
        """A tag's text; None without it."""
        return self._tags.get(key)

    def delete_tag(self, key: str) -> None:
        """Forget a tag; the bus cannot take one back, and empties it.

        Raises:
            MlflowException: It has no such tag.
        """
        with self._lock:
            if self._tags.pop(key, None) is None:
                raise invalid(f"No tag with name: {key} in run with id {self.facts.run_id}")
            if key not in _STEERING:
                self.publish(lambda bus: bus.tags({key: ""}))

    def add_inputs(
        self, datasets: Iterable[DatasetInput], models: Iterable[LoggedModelInput]
    ) -> None:
        """Note what the run was trained on or began with."""
        with self._lock:
            self._links.datasets += datasets
            self._links.models_in += models

    def add_outputs(self, models: Iterable[LoggedModelOutput]) -> None:
        """Note the models that came out of it."""
        with self._lock:
            self._links.models_out += models

    def update(self, status: str, end_ms: int | None, name: str | None) -> None:
        """Change status, end or name as MLflow's ``update_run_info`` does."""
        with self._lock:
            facts = self.facts
            facts.end_ms = facts.end_ms if end_ms is None else end_ms
            if name:
                facts.name = self._tags[NAME_TAG] = name
            if status == facts.status:
                return
            facts.status = status
            # Another end than before is the end of another attempt.
            if not self._is_open:
                self._reopen()
            if status in _STATUSES:
                self._close()

    def history(self, key: str) -> list[Metric]:
        """The points of a metric, in the order they were logged."""
        with self._lock:
            points = self._points.of(key)
        run_id = self.facts.run_id
        return [Metric(key, p.value, p.ms, p.step, run_id=run_id) for p in points]

    def entity(self) -> Run:
        """The run as MLflow hands it out."""
        with self._lock:
            metrics = [
                Metric(key, point.value, point.ms, point.step)
                for key, point in self._points.latest()
            ]
            params = [Param(key, text) for key, text in self._params.items()]
            tags = [RunTag(key, text) for key, text in self._tags.items()]
            links = self._links
            inputs = RunInputs(list(links.datasets), list(links.models_in))
            outputs = RunOutputs(list(links.models_out))
            return Run(self.info(), RunData(metrics, params, tags), inputs, outputs)

    def info(self) -> RunInfo:
        """The run's info as MLflow hands it out."""
        facts = self.facts
        return RunInfo(
            run_id=facts.run_id,
            experiment_id=facts.experiment,
            user_id=facts.user,
            status=facts.status,
            start_time=facts.start_ms,
            end_time=facts.end_ms,
            lifecycle_stage=LifecycleStage.ACTIVE,
            artifact_uri=artifact_uri(f"runs/{facts.run_id}"),
            run_name=facts.name,
        )

    def _reopen(self) -> None:
        self._bus = self._start(self._bus.attempt + 1)
        self._is_open = True

    def _close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        # Waiting is for the end of the process: a sweep has hundreds of runs.
        self._bus.finish(_STATUSES.get(self.facts.status, "completed"), timeout=0.0)
        self._on_end(self._bus)


def _point(metric: Metric) -> Point:
    try:
        point = Point(int(metric.timestamp), int(metric.step), float(metric.value))
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid(
            f"metric {metric.key!r}: value {metric.value!r}, timestamp {metric.timestamp!r} or "
            f"step {metric.step!r} is no number"
        ) from error
    if not 0 <= point.ms < 2**63 or not -(2**63) <= point.step < 2**63:
        raise invalid(f"metric {metric.key!r}: timestamp or step is out of range: {point}")
    return point


def _log_rows(bus: BusRun, points: Sequence[tuple[str, Point]]) -> None:
    """Write points of the same time and step as one row, as long as no name comes twice."""
    row: dict[str, Any] = {}
    ms = step = 0
    for key, point in points:
        if row and (point.ms != ms or point.step != step or key in row):
            bus.log(row, step, at=ms / 1000)
            row = {}
        ms, step, value = point
        row[key] = value
    bus.log(row, step, at=ms / 1000)
