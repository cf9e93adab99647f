"""The mlflow sink: events of the bus as runs, metrics, artifacts and models of MLflow.

A batch is written in this order, so that a kill at any point leaves a batch that can be written
again and never one that counts as written and is not:

1. the run is created, if need be, with the time of its first event;
2. artifacts and models, each of which may be repeated;
3. all metric points but the last thousand, in full calls;
4. the run's status and end time;
5. the last points, params, tags and the applied marks, in one call if they fit.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from bus.config import Settings
from bus.errors import PermanentSinkError, RetryableSinkError
from bus.events import Event
from bus.sinks import BatchLimits, Marks, RunRef, SinkContents
from subscribers.marks import marks_to_texts, split_text
from subscribers.mlflow import runs
from subscribers.mlflow.batches import NonFiniteNotes, Request, chunks_of, final_requests
from subscribers.mlflow.contents import count_points
from subscribers.mlflow.files import log_blob, log_text
from subscribers.mlflow.models import Target, log_model
from subscribers.mlflow.plan import Plan, plan
from subscribers.mlflow.points import Point, expected_points
from subscribers.mlflow.runs import RunState
from subscribers.mlflow.tracker import Address, Tracker, prepare_process

__all__ = ["MlflowSink", "create"]

_KINDS = frozenset(
    {
        "artifact",
        "checkpoint",
        "image",
        "metrics",
        "model",
        "params",
        "plot",
        "run_finished",
        "run_started",
        "summary",
        "system",
        "tags",
    }
)
"""All but phase and console, for which MLflow has no place."""

_Key = tuple[str, str]


def create(settings: Settings, environ: Mapping[str, str]) -> MlflowSink:
    """Make the sink from ``MLFLOW_TRACKING_URI`` and MLflow's other variables.

    Raises:
        ConfigError: A variable is wrong; the message names it.
    """
    prepare_process(environ)
    return MlflowSink(Address.from_environment(settings, environ))


class MlflowSink:
    """A :class:`bus.sinks.Sink`. Blocking calls run in its threads, never on the event loop.

    Args:
        address: Where MLflow is.
        clock: Unix seconds; the start of a run of which only marks are written.
    """

    def __init__(self, address: Address, clock: Callable[[], float] = time.time) -> None:
        self._tracker = Tracker(address)
        self._address = address
        self._clock = clock
        self._states: dict[_Key, RunState] = {}
        self._locks: dict[_Key, asyncio.Lock] = {}
        self._experiment_lock = asyncio.Lock()

    @property
    def name(self) -> str:
        """``mlflow``."""
        return "mlflow"

    @property
    def limits(self) -> BatchLimits:
        """The default: about two hundred calls of a thousand points at the most."""
        return BatchLimits()

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that have a place in MLflow."""
        return _KINDS

    def expected_points(self, event: Event) -> set[tuple[str, int, int, float | str]]:
        """See :func:`subscribers.mlflow.points.expected_points`."""
        return expected_points(event)

    async def open_run(self, run: RunRef) -> Marks:
        """Find the run and read its marks. The first write creates it, with its original start."""
        async with self._lock_of(run):
            state = await self._open(run)
            return state.marks

    async def write(self, run: RunRef, events: Sequence[Event], marks: Marks) -> None:
        """Write events and marks; see the top of this module for the order."""
        async with self._lock_of(run):
            state = self._states.get(_key_of(run)) or await self._open(run)
            planned = plan(events)
            notes = NonFiniteNotes(state.tags)
            if state.run_id is None:
                await self._create(run, state, planned)
            await self._write_files(state, planned, notes)
            if planned.is_starting:
                planned.tags |= await self._tracker.call(
                    "linking parent and child runs", _link, state, run.run, planned.parent
                )
            stop = threading.Event()
            try:
                await self._tracker.call(
                    f"writing to run {run.run!r}", _log, state, planned, notes, marks, stop
                )
            except asyncio.CancelledError:
                stop.set()
                raise

    async def close_run(self, run: RunRef) -> None:
        """Forget a run."""
        self._states.pop(_key_of(run), None)
        lock = self._locks.get(_key_of(run))
        if lock is not None and not lock.locked():
            del self._locks[_key_of(run)]

    async def contents(self, run: RunRef) -> SinkContents | None:
        """Count what MLflow holds of a run."""
        return await self._tracker.call("counting points", _contents, self._address, run)

    async def close(self) -> None:
        """Release the threads."""
        self._tracker.close()

    def _lock_of(self, run: RunRef) -> asyncio.Lock:
        return self._locks.setdefault(_key_of(run), asyncio.Lock())

    async def _open(self, run: RunRef) -> RunState:
        # One at a time: runs of a new project would all try to create its experiment.
        async with self._experiment_lock:
            experiment = await self._tracker.call(
                f"opening experiment {run.project!r}",
                runs.experiment_id,
                self._address,
                run.project,
            )
        found = await self._tracker.call(
            f"looking for run {run.run!r}", runs.find_run, experiment, run.run
        )
        state = RunState.of(experiment, found)
        self._states[_key_of(run)] = state
        return state

    async def _create(self, run: RunRef, state: RunState, planned: Plan) -> None:
        start = planned.first_seconds if planned.first_seconds is not None else self._clock()

        def find_or_create(client: MlflowClient) -> RunState:
            # An earlier try may have created it and not lived to see the answer.
            found = runs.find_run(client, state.experiment, run.run)
            found = found or runs.create_run(client, state.experiment, run, start)
            return RunState.of(state.experiment, found)

        created = await self._tracker.call(f"creating run {run.run!r}", find_or_create)
        state.run_id, state.tags, state.status = created.run_id, created.tags, created.status

    async def _write_files(self, state: RunState, planned: Plan, notes: NonFiniteNotes) -> None:
        for text in planned.texts:
            doing = f"writing {text.path}"
            await self._tracker.upload(doing, log_text, state.run_id, text)
        for upload in planned.uploads:
            doing = f"uploading {upload.path}"
            await self._tracker.upload(doing, log_blob, state.run_id, upload)
        for event in planned.models:
            registered = planned.tags.get(runs.REGISTERED_TAG) or state.tags.get(
                runs.REGISTERED_TAG, ""
            )
            target = Target(self._address, state.experiment, str(state.run_id), registered)
            await self._tracker.upload("logging a model", log_model, target, event, notes)


def _log(
    client: MlflowClient,
    state: RunState,
    planned: Plan,
    notes: NonFiniteNotes,
    marks: Marks,
    stop: threading.Event,
) -> None:
    """Steps 3 to 5 of a write, in one thread."""
    last: list[Point] = []
    for chunk in chunks_of(planned.points, notes):
        if last:
            _send(client, state, Request(last), stop)
        last = chunk
    life = state.life.copy()
    for report in planned.reports:
        report(life)
    if planned.reports:
        runs.set_status(client, state, life.outcome())
        planned.tags |= split_text(runs.LIFE_TAG, str(life))
    tags = _changed(state, {**planned.tags, **notes.tags})
    for request in final_requests(
        last, planned.params, tags, _changed(state, marks_to_texts(marks))
    ):
        _send(client, state, request, stop)
    state.life = life


def _changed(state: RunState, tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if state.tags.get(key) != value}


def _send(client: MlflowClient, state: RunState, request: Request, stop: threading.Event) -> None:
    if stop.is_set():
        raise RetryableSinkError("the write was cancelled")
    for key, _ in request.tags:
        # Until the answer is here, nobody knows what it is.
        state.tags.pop(key, None)
    client.log_batch(
        state.run_id,
        metrics=[Metric(key, value, ms, step) for key, ms, step, value in request.points],
        params=[Param(key, value) for key, value in request.params],
        tags=[RunTag(key, value) for key, value in request.tags],
    )
    state.tags |= {key: value for key, value in request.tags if key.startswith("trainbus.")}


def _link(client: MlflowClient, state: RunState, run: str, parent: str | None) -> dict[str, str]:
    runs.link_children(client, state, run)
    return runs.link_parent(client, state, parent) if parent else {}


def _contents(client: MlflowClient, address: Address, run: RunRef) -> SinkContents | None:
    try:
        experiment = runs.find_experiment(client, run.project)
        found = runs.find_run(client, experiment, run.run) if experiment else None
    except PermanentSinkError:
        return None
    if found is None or experiment is None:
        return None
    url = address.web and f"{address.web}/#/experiments/{experiment}/runs/{found.info.run_id}"
    return SinkContents(RunState.of(experiment, found).marks, count_points(client, found), url)


def _key_of(run: RunRef) -> _Key:
    return (run.project, run.run)
