"""The clearml sink with a server; :mod:`subscribers.clearml.writing` says in which order."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from bus.errors import PermanentSinkError
from bus.events import Event
from bus.sinks import BatchLimits, Marks, RunRef, SinkContents, StopListener
from subscribers.clearml import tasks
from subscribers.clearml.access import Access
from subscribers.clearml.api import Api
from subscribers.clearml.files import picture_line
from subscribers.clearml.models import FRAMEWORK, log_artifact, log_model
from subscribers.clearml.names import project_name
from subscribers.clearml.options import RunOptions
from subscribers.clearml.plan import KINDS, Plan, plan
from subscribers.clearml.points import NonFiniteNotes, expected_points
from subscribers.clearml.tasks import TaskState
from subscribers.clearml.tracker import Tracker
from subscribers.clearml.writing import begin, describe, explained, finish, send_events

__all__ = ["LiveSink"]

_log = logging.getLogger(__name__)

_KEEP_ALIVE_SECONDS = 600.0
"""The server stops a task that was silent for 7,200 s (``tasks.non_responsive_tasks_watchdog``)."""

_STALE_SECONDS = 600.0
"""After so long without an answer about a task, it is looked at before it is written to."""

_Key = tuple[str, str]


class LiveSink:
    """A :class:`bus.sinks.Sink`. Blocking calls run in its threads, never on the event loop.

    Args:
        access: Where ClearML is, and the keys.
        clock: Monotonic seconds.
    """

    def __init__(self, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        self._tracker = Tracker(access)
        self._clock = clock
        self._states: dict[_Key, TaskState] = {}
        self._locks: dict[_Key, asyncio.Lock] = {}
        self._project_lock = asyncio.Lock()
        self._projects: dict[str, str] = {}
        self._tell: StopListener | None = None
        self._told: set[_Key] = set()

    @property
    def name(self) -> str:
        """``clearml``."""
        return "clearml"

    @property
    def limits(self) -> BatchLimits:
        """At most some fifty thousand points, a hundred calls: a failure repeats them all."""
        return BatchLimits(size_bytes=1024 * 1024)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that have a place in ClearML."""
        return KINDS

    @property
    def keep_alive_seconds(self) -> float:
        """A twelfth of the time after which the server stops a silent task."""
        return _KEEP_ALIVE_SECONDS

    def tell_stops_to(self, listener: StopListener) -> None:
        """Call ``listener`` once for each run whose task a person stops in ClearML."""
        self._tell = listener

    def expected_points(self, event: Event) -> set[tuple[int, str, str]]:
        """See :func:`subscribers.clearml.points.expected_points`."""
        return expected_points(event)

    async def open_run(self, run: RunRef) -> Marks:
        """Find the task and read its marks. The first write creates it."""
        async with self._lock_of(run):
            return (await self._open(run)).marks

    async def write(self, run: RunRef, events: Sequence[Event], marks: Marks) -> None:
        """Write events and marks; see :mod:`subscribers.clearml.writing` for the order."""
        async with self._lock_of(run):
            state = self._states.get(_key_of(run)) or await self._open(run)
            planned = plan(events)
            stop = threading.Event()
            try:
                await self._prepare(state, planned, is_empty=not events)
                notes = await self._send(state, planned, stop)
                doing = f"finishing a write to run {run.run!r}"
                await self._tracker.call(doing, finish, state, planned, notes, marks)
            except asyncio.CancelledError:
                stop.set()
                raise
            state.seen_seconds = self._clock()

    async def close_run(self, run: RunRef) -> None:
        """Forget a run."""
        self._states.pop(_key_of(run), None)
        lock = self._locks.get(_key_of(run))
        if lock is not None and not lock.locked():
            del self._locks[_key_of(run)]

    async def keep_alive(self, run: RunRef) -> None:
        """Keep the server's watchdog away; begin a task again that it stopped in an outage."""
        key, doing = _key_of(run), f"keeping run {run.run!r} alive"
        state = self._states.get(key)
        if state is None:
            state = await self._tracker.call(doing, _keep_alive, TaskState(run))
        elif self._lock_of(run).locked():
            # A write is under way, which does as well.
            return
        else:
            async with self._lock_of(run):
                # A copy: the worker may give up waiting, and write, before the call ends.
                state.take_over(await self._tracker.call(doing, _keep_alive, replace(state)))
                state.seen_seconds = self._clock()
        self._tell_if_aborted(run, state)

    async def contents(self, run: RunRef) -> SinkContents | None:
        """Count what ClearML holds of a run."""
        return await self._tracker.call("counting points", _contents, run)

    async def close(self) -> None:
        """Release the threads."""
        self._tracker.close()

    def _lock_of(self, run: RunRef) -> asyncio.Lock:
        return self._locks.setdefault(_key_of(run), asyncio.Lock())

    async def _open(self, run: RunRef) -> TaskState:
        doing = f"looking for run {run.run!r}"
        state = await self._tracker.call(doing, tasks.find_task, run)
        state.seen_seconds = self._clock()
        self._states[_key_of(run)] = state
        return state

    async def _prepare(self, state: TaskState, planned: Plan, *, is_empty: bool) -> None:
        run = state.ref.run
        if not state.task:
            await self._create(state, planned.options or RunOptions())
        elif self._clock() - state.seen_seconds > _STALE_SECONDS:
            await self._tracker.call(f"looking at run {run!r}", tasks.refresh, state)
        if not is_empty:
            await self._tracker.call(f"beginning run {run!r}", begin, state, planned)

    async def _create(self, state: TaskState, options: RunOptions) -> None:
        doing = f"creating the task of run {state.ref.run!r}"
        name = options.project or project_name(state.ref.project)
        is_known = name in self._projects
        try:
            project = await self._project(name)
            await self._tracker.call(doing, tasks.create_task, state, options, project)
        except PermanentSinkError:
            if not is_known:
                raise
            # Somebody may have deleted the project since it was looked up.
            self._projects.pop(name, None)
            await self._create(state, options)

    async def _project(self, name: str) -> str:
        # One at a time: runs of a new project would all try to create it.
        async with self._project_lock:
            if name not in self._projects:
                doing = f"opening project {name!r}"
                found = await self._tracker.call(doing, tasks.project_id, name)
                self._projects[name] = found
            return self._projects[name]

    async def _send(self, state: TaskState, planned: Plan, stop: threading.Event) -> NonFiniteNotes:
        lines = []
        for picture in planned.pictures:
            name = f"{picture.metric}/{picture.variant}"
            lines.append(
                await self._tracker.upload(f"uploading {name}", picture_line, state, picture)
            )
        doing = f"writing to run {state.ref.run!r}"
        notes = await self._tracker.call(doing, send_events, state, planned, lines, stop)
        options = planned.options or state.options
        is_moving = planned.options is not None and options.project
        project = await self._project(options.project) if is_moving else state.project
        doing = f"describing run {state.ref.run!r}"
        await self._tracker.call(doing, describe, state, planned, project)
        framework = planned.framework or state.properties.get(FRAMEWORK, "")
        for model in planned.models:
            if model.is_kept or options.all_checkpoints:
                arguments = (state, model, options, framework)
                await self._tracker.upload(f"logging model {model.role}", log_model, *arguments)
        for event in planned.artifacts:
            await self._tracker.upload("logging an artifact", log_artifact, state, event)
        return notes

    def _tell_if_aborted(self, run: RunRef, state: TaskState) -> None:
        if not state.is_aborted:
            self._told.discard(_key_of(run))
        elif self._tell is not None and _key_of(run) not in self._told:
            self._told.add(_key_of(run))
            self._tell(run, "stopped in ClearML")


def _keep_alive(api: Api, state: TaskState) -> TaskState:
    if not state.task:
        state = tasks.find_task(api, state.ref)
    if not state.task or state.status in tasks.LOCKED:
        return state
    api.call("tasks.ping", {"task": state.task})
    tasks.refresh(api, state)
    if state.status == "stopped" and state.was_silent and state.life.outcome() is None:
        _log.warning("clearml: run %s was stopped as silent: it goes on", state.ref.run)
        tasks.start(api, state)
    return state


def _contents(api: Api, run: RunRef) -> SinkContents | None:
    state = tasks.find_task(api, run)
    if not state.task:
        return None
    query = {"task": state.task, "event_type": "training_stats_scalar"}
    with explained(api, state):
        answer = api.call("events.get_task_events", {**query, "batch_size": 1, "count_total": True})
    total = answer.get("total")
    web = api.web_host
    page = f"{web}/projects/{state.project or '*'}/experiments/{state.task}/output/log"
    return SinkContents(state.marks, None if total is None else int(total), web and page)


def _key_of(run: RunRef) -> _Key:
    return (run.project, run.run)
