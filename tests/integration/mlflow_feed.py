"""What the tests of the MLflow sink share: events as a rank sends them, and what MLflow has."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from bus.config import Settings
from bus.sinks import RunRef
from subscribers.mlflow.runs import find_experiment, find_run
from subscribers.mlflow.sink import MlflowSink, create
from tests.fixtures.feed import START, Feed, marks_of

__all__ = ["START", "Feed", "history", "make_sink", "marks_of", "run_in"]


def make_sink(uri: str, home: Path) -> MlflowSink:
    """The sink as the worker makes it."""
    environ = {"TRAINBUS_HOME": str(home), "MLFLOW_TRACKING_URI": uri}
    return create(Settings.from_environment(environ), environ)


async def run_in(client: MlflowClient, ref: RunRef) -> Run:
    """The run as MLflow has it."""

    def find() -> Run:
        experiment = find_experiment(client, ref.project)
        assert experiment is not None
        found = find_run(client, experiment, ref.run)
        assert found is not None
        return client.get_run(found.info.run_id)

    return await asyncio.to_thread(find)


def history(client: MlflowClient, run: Run, key: str) -> list[tuple[int, int, float | str]]:
    """All points of a metric, sorted: (ms, step, value or "nan")."""
    points = client.get_metric_history(run.info.run_id, key)
    return sorted(
        (point.timestamp, point.step, "nan" if math.isnan(point.value) else point.value)
        for point in points
    )
