"""A logged model of MLflow, and the ``model`` events that it becomes.

The first event is written when MLflow says that the model is ready; later ones carry the same key
and add to it: a registered version, tags, params, or which metric points are its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # comes with mlflow, ships no types
from mlflow.entities import LoggedModel, LoggedModelStatus, Metric

from publishers.integrations.mlflow.names import artifact_uri
from publishers.run import Run as BusRun

__all__ = ["VERSIONS_TAG", "KnownModel", "Registration"]

VERSIONS_TAG = "mlflow.modelVersions"
"""MLflow's list of a model's registered versions, which the worker writes with the real numbers."""

_MAX_POINTS = 1000
"""Points that one event says are the model's."""

_MAX_WAITING = 100_000


@dataclass(frozen=True, slots=True)
class Registration:
    """A version that the tracker's registry is to have."""

    name: str
    tags: dict[str, str] = field(default_factory=dict)
    description: str = ""


@dataclass(slots=True)
class KnownModel:
    """A model that this process has made.

    Attributes:
        run_id: The run that it is from.
        source_run: What MLflow is told about that; None for a model without a run.
        points: Metric points of the run that are the model's too, and not published as such yet.
        is_published: The bus has it.
    """

    model_id: str
    experiment: str
    name: str
    run_id: str
    source_run: str | None
    model_type: str | None
    tags: dict[str, str]
    params: dict[str, str]
    status: LoggedModelStatus = LoggedModelStatus.PENDING
    created_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    updated_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    metrics: dict[str, Metric] = field(default_factory=dict)
    points: list[Metric] = field(default_factory=list)
    is_published: bool = False

    @property
    def owner(self) -> str:
        """Whose its artifacts are."""
        return f"models/{self.model_id}"

    def touch(self) -> None:
        """Note a change."""
        self.updated_ms = int(time.time() * 1000)

    def add_point(self, metric: Metric) -> bool:
        """Note a point of its run that is its own too; says whether an event of them is due."""
        self.metrics[metric.key] = metric
        self.points.append(metric)
        # A model that never gets ready must not fill the memory.
        del self.points[:-_MAX_WAITING]
        return self.is_published and len(self.points) >= _MAX_POINTS

    def entity(self) -> LoggedModel:
        """The model as MLflow hands it out."""
        return LoggedModel(
            experiment_id=self.experiment,
            model_id=self.model_id,
            name=self.name,
            artifact_location=artifact_uri(self.owner),
            creation_timestamp=self.created_ms,
            last_updated_timestamp=self.updated_ms,
            model_type=self.model_type,
            source_run_id=self.source_run,
            status=self.status,
            tags=dict(self.tags),
            params=dict(self.params),
            metrics=list(self.metrics.values()),
        )

    def publish(
        self,
        bus: BusRun,
        folder: Path,
        registration: Registration | None = None,
        *,
        is_frozen: bool = True,
    ) -> None:
        """Write the model, or what is new about it, to its run.

        Args:
            bus: The run it is from.
            folder: All its files.
            registration: The version to register.
            is_frozen: The files never change again.
        """
        points, self.points = self.points[:_MAX_POINTS], self.points[_MAX_POINTS:]
        said: dict[str, Any] = {
            "params": self.params,
            "tags": {key: text for key, text in self.tags.items() if key != VERSIONS_TAG},
            "model_type": self.model_type or "",
            "points": [_as_list(point) for point in points],
        }
        if registration is not None:
            described = {"tags": registration.tags, "description": registration.description}
            said["version"] = {key: value for key, value in described.items() if value}
        said = {key: value for key, value in said.items() if value}
        bus.model(
            folder,
            self.name,
            "mlflow" if (folder / "MLmodel").is_file() else "",
            signature=read_signature(folder),
            registered_name=registration.name if registration else None,
            key=self.model_id,
            options={"mlflow": said} if said else None,
            is_frozen=is_frozen,
        )
        self.is_published = True


def read_signature(folder: Path) -> dict[str, Any] | None:
    """The signature in an MLmodel file; None without one."""
    try:
        content = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    found = content.get("signature") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else None


def _as_list(metric: Metric) -> list[Any]:
    known = [metric.key, metric.timestamp, metric.step, metric.value]
    return [*known, metric.dataset_name, metric.dataset_digest]
