"""What the tests of the MLflow sink share: events as a rank sends them, and what MLflow has."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from bus.artifacts import ArtifactStore
from bus.config import Settings
from bus.events import Event
from bus.kinds import Blob, KindData, Metrics, Number, RunFinished, RunStarted, Table, World
from bus.sinks import Marks, RunRef
from bus.source import Source
from subscribers.mlflow.runs import find_experiment, find_run
from subscribers.mlflow.sink import MlflowSink, create

__all__ = ["START", "Feed", "history", "make_sink", "marks_of", "run_in"]

START = 1767225600.0


class Feed:
    """The events of one rank of a run, with ids from 1 and a second between them."""

    def __init__(self, run: str, project: str, rank: int = 0, attempt: int = 1) -> None:
        self.ref = RunRef(project, run, f"name of {run}")
        incarnation = f"{attempt}-{int(START):x}-{rank:08x}{attempt:08x}"
        self.source = str(Source(run, rank, incarnation, f"node-{rank}"))
        self.rank, self.attempt = rank, attempt
        self._id = 0

    def event(self, kind: str, data: KindData, dataref: str | None = None) -> Event:
        self._id += 1
        return Event(
            kind=kind,
            source=self.source,
            id=self._id,
            run=self.ref.run,
            project=self.ref.project,
            run_name=self.ref.run_name,
            time=START + self._id - 1,
            data=data,
            dataref=dataref,
        )

    def started(self, ranks: int = 1, **fields: Any) -> Event:
        data = RunStarted(rank=self.rank, attempt=self.attempt, world=World(ranks=ranks), **fields)
        return self.event("run_started", data)

    def finished(self, status: Any = "completed", **fields: Any) -> Event:
        data = RunFinished(
            status=status, last_id=self._id + 1, rank=self.rank, attempt=self.attempt, **fields
        )
        return self.event("run_finished", data)

    def metrics(self, keys: list[str], steps: range, value: Number = 0.5) -> Event:
        """One row per step, a tenth of a second apart, its value the step and ``value``."""
        rows: list[list[Number]] = [
            [
                START + step / 10,
                step,
                *((step + value if isinstance(value, float) else value) for _ in keys),
            ]
            for step in steps
        ]
        return self.event("metrics", Metrics([Table(keys, rows)]))

    def stored(self, store: ArtifactStore, path: Path) -> tuple[Blob, str]:
        """A file or folder as an event carries it: its blob and dataref."""
        put = store.put_folder if path.is_dir() else store.put_file
        blob = put(path)
        return Blob(path.name, blob.size, blob.sha256, is_folder=path.is_dir()), blob.url


def marks_of(*batches: list[Event], dead: list[Event] | None = None) -> Marks:
    """The marks once these events are written."""
    marks = Marks()
    for event in (event for batch in batches for event in batch):
        marks.add_applied(event.source, event.id)
    for event in dead or []:
        marks.add_dead(event.source, event.id)
    return marks


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
