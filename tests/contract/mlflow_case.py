"""MLflow in the contract suite: a server of the test's own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar

from mlflow.tracking import MlflowClient

from bus.config import Settings
from bus.sinks import RunRef, Sink
from subscribers.mlflow.runs import find_experiment, find_run
from subscribers.mlflow.sink import create
from tests.contract.cases import Points, SinkCase
from tests.fixtures.mlflow import MlflowServer

__all__ = ["MlflowCase"]


class MlflowCase(SinkCase):
    """``mlflow server`` on SQLite."""

    statuses: ClassVar = {"completed": "FINISHED", "failed": "FAILED", "killed": "KILLED"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._server = MlflowServer(folder / "mlflow")
        self._server.start()

    def make_sink(self) -> Sink:
        environ = {
            "TRAINBUS_HOME": str(self.folder / "home"),
            "MLFLOW_TRACKING_URI": self._server.uri,
        }
        return create(Settings.from_environment(environ), environ)

    def points(self, run: RunRef) -> Points:
        client, run_id = self._find(run)
        keys = client.get_run(run_id).data.metrics
        return Counter(
            (key, point.step, point.value)
            for key in keys
            for point in client.get_metric_history(run_id, key)
        )

    def status(self, run: RunRef) -> str:
        client, run_id = self._find(run)
        return str(client.get_run(run_id).info.status)

    def break_down(self) -> None:
        self._server.kill()

    def hang(self) -> None:
        self._server.pause()

    def heal(self) -> None:
        self._server.kill()
        self._server.start()

    def close(self) -> None:
        self._server.kill()

    def _find(self, run: RunRef) -> tuple[MlflowClient, str]:
        client = MlflowClient(self._server.uri, self._server.uri)
        experiment = find_experiment(client, run.project)
        assert experiment is not None
        found = find_run(client, experiment, run.run)
        assert found is not None
        return client, found.info.run_id
