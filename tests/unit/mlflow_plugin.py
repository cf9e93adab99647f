"""What the tests of the MLflow plugin share: its parts as MLflow makes them, on a spool."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModelStatus, RunTag

from publishers.integrations.mlflow.artifacts import TrainbusArtifactRepository
from publishers.integrations.mlflow.ledger import Ledger
from publishers.integrations.mlflow.registry import TrainbusRegistry
from publishers.integrations.mlflow.store import TrainbusStore
from tests.fixtures.spool import Spool

__all__ = ["MS", "Plugin", "rows"]

MS = 1_700_000_000_123


class Plugin:
    """The parts as MLflow makes them, and the spool they write to."""

    def __init__(self, spool: Spool, **environ: str) -> None:
        self.spool = spool
        self.ledger = Ledger({**os.environ, **environ})
        self.store = TrainbusStore("trainbus:", ledger=self.ledger)
        self.registry = TrainbusRegistry("trainbus:", ledger=self.ledger)

    def start(self, name: str = "one", experiment: str = "digits", **tags: str) -> str:
        known = self.store.get_experiment_by_name(experiment)
        identifier = (
            known.experiment_id if known else self.store.create_experiment(experiment, None, [])
        )
        texts = [RunTag(key.replace("__", "."), text) for key, text in tags.items()]
        run_id: str = self.store.create_run(identifier, "me", MS, texts, name).info.run_id
        return run_id

    def repository(self, run_id: str) -> TrainbusArtifactRepository:
        uri = self.store.get_run(run_id).info.artifact_uri
        return TrainbusArtifactRepository(uri, ledger=self.ledger)

    def model(self, run_id: str | None, folder: Path, name: str = "clf") -> str:
        """Log a model as MLflow does."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "MLmodel").write_text("signature: {inputs: '[]'}\nflavors: {}\n")
        (folder / "weights").write_bytes(b"w")
        model = self.store.create_logged_model("0", name, run_id)
        TrainbusArtifactRepository(model.artifact_location, ledger=self.ledger).log_artifacts(
            str(folder)
        )
        self.store.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        return str(model.model_id)

    def all(self, kind: str) -> list[dict[str, Any]]:
        """The data of a kind, of all sources in the order of their attempts."""
        sources = self.spool.sources()
        return [one["data"] for source in sources for one in self.spool.records(kind, source)]


def rows(plugin: Plugin) -> list[Any]:
    return [one for one in plugin.spool.payloads() if isinstance(one, list)]
