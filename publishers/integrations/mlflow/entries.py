"""Where MLflow comes in. It loads this with every ``import mlflow`` where trainbus is installed.

The parts are imported when MLflow asks for them, with a URI that is the bus's: they import MLflow
themselves, which is only half there when it loads its plugins.
"""

from __future__ import annotations

from typing import Any

__all__ = ["artifact_repository", "registry_store", "tracking_store"]


def tracking_store(store_uri: str | None = None, artifact_uri: str | None = None) -> Any:
    """A :class:`publishers.integrations.mlflow.store.TrainbusStore`."""
    from publishers.integrations.mlflow.store import TrainbusStore

    return TrainbusStore(store_uri, artifact_uri)


def registry_store(store_uri: str | None = None, tracking_uri: str | None = None) -> Any:
    """A :class:`publishers.integrations.mlflow.registry.TrainbusRegistry`."""
    from publishers.integrations.mlflow.registry import TrainbusRegistry

    return TrainbusRegistry(store_uri, tracking_uri)


def artifact_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> Any:
    """A :class:`publishers.integrations.mlflow.artifacts.TrainbusArtifactRepository`."""
    from publishers.integrations.mlflow.artifacts import TrainbusArtifactRepository

    return TrainbusArtifactRepository(artifact_uri, tracking_uri, registry_uri)
