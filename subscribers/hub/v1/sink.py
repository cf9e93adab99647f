"""The sink of HUB v1: runs as models, with their metrics and weights.

A batch is written in this order, so that a kill at any point leaves a batch that can be written
again:

1. the model is loaded or created, once all that it is made of is known, and its id is kept;
2. the metrics of all epochs go in one request; sent again they say the same;
3. weights whose turn it is are uploaded; again it is the same file in the same place;
4. marks, and what later batches need, are kept in the event log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bus.config import Settings
from bus.errors import MarksMovedError, PermanentSinkError
from bus.events import Event
from bus.idranges import IdRanges
from bus.ratelimit import Rate, RateLimits
from bus.sinks import BatchLimits, Marks, RunRef, SinkContents
from subscribers.hub.answers import Place, RefusedError
from subscribers.hub.http import HttpClient, Times
from subscribers.hub.keys import ApiKey, read_address, read_key
from subscribers.hub.progress import Uploads
from subscribers.hub.state import StateStore
from subscribers.hub.v1.client import HubClient
from subscribers.hub.v1.identifiers import KEY_HEADER
from subscribers.hub.v1.metrics import due_metrics
from subscribers.hub.v1.models import ModelOpener, RunState
from subscribers.hub.v1.plan import KINDS, Plan, plan
from subscribers.hub.v1.weights import Weights

__all__ = ["KEY_VARIABLE", "HubSink", "create_hub"]

logger = logging.getLogger(__name__)

KEY_VARIABLE = "HUB_API_KEY"
_API_VARIABLE = "ULTRALYTICS_HUB_API"
_WEB_VARIABLE = "ULTRALYTICS_HUB_WEB"
_API = "https://api.ultralytics.com"
_WEB = "https://hub.ultralytics.com"

_LIMITS = BatchLimits(events=200, size_bytes=1024 * 1024)
"""One request holds all metrics of a batch, and servers bound the size of a request."""

_METRICS_SECONDS = 3.0
_KIND_RATE_VARIABLE = "TRAINBUS_HUB_KIND_RATE"

_RATE_LIMITS = RateLimits(kinds={"metrics": Rate(1 / _METRICS_SECONDS, 1)})
"""Of ``hub-sdk``, per model. Its others are a heartbeat every 300 s, which is the worker's, and
weights every 900 s, which this sink holds itself (:mod:`subscribers.hub.v1.pending`)."""

_KEEP_ALIVE_SECONDS = 300.0
_NOT_FOUND = 404

_Key = tuple[str, str]


def create_hub(settings: Settings, environ: Mapping[str, str]) -> HubSink:
    """Make the sink from ``HUB_API_KEY`` and HUB's other variables.

    Raises:
        ConfigError: A variable is wrong, or there is no event log.
    """
    address = read_address(environ, _API_VARIABLE, _API)
    if address == _API:
        logger.warning(
            "Ultralytics HUB shut down on 2026-07-31: set %s to a server that speaks its API, or "
            "ULTRALYTICS_API_KEY for Ultralytics Platform",
            _API_VARIABLE,
        )
    key = read_key(environ, KEY_VARIABLE, KEY_HEADER)
    web = read_address(environ, _WEB_VARIABLE, _WEB)
    # Whoever sets limits of their own means them.
    gap = 0.0 if environ.get(_KIND_RATE_VARIABLE) else _METRICS_SECONDS
    return HubSink(
        StateStore.of(settings, "hub", "hub"), address, web, key, metrics_gap_seconds=gap
    )


class HubSink:
    """A :class:`bus.sinks.Sink`.

    Args:
        store: Where marks and ids are kept.
        address: Base URL of the API.
        web: Root of the web pages; identifiers begin with it.
        key: For runs whose identifier holds none.
        times: Time limits of requests.
        clock: Unix seconds.
        metrics_gap_seconds: From the end of one request with metrics of a model to the next.
    """

    def __init__(
        self,
        store: StateStore,
        address: str,
        web: str,
        key: ApiKey | None,
        times: Times | None = None,
        clock: Callable[[], float] = time.time,
        metrics_gap_seconds: float = 0.0,
    ) -> None:
        self._metrics_gap_seconds = metrics_gap_seconds
        self._store = store
        self._client = HubClient(HttpClient(Place("HUB", address, _API_VARIABLE), times, clock))
        self._uploads = Uploads()
        self._opener = ModelOpener(self._client, store, web, key, clock)
        self._weights = Weights(self._client, store, self._uploads, clock)
        self._states: dict[_Key, RunState] = {}

    @property
    def name(self) -> str:
        """``hub``."""
        return "hub"

    @property
    def limits(self) -> BatchLimits:
        """What one request may hold."""
        return _LIMITS

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that have a place in HUB."""
        return KINDS

    @property
    def rate_limits(self) -> RateLimits:
        """Those of HUB, per model."""
        return _RATE_LIMITS

    @property
    def keep_alive_seconds(self) -> float:
        """Five minutes."""
        return _KEEP_ALIVE_SECONDS

    def state(self) -> dict[str, Any]:
        """The uploads under way."""
        return self._uploads.state()

    async def open_run(self, run: RunRef) -> Marks:
        """Read what is kept of the run. Its model is made when it is known of what."""
        state = self._states[_key_of(run)] = RunState(run, await self._store.read(run))
        return state.record.marks.copy()

    async def write(self, run: RunRef, events: Sequence[Event], marks: Marks) -> None:
        """Write events and marks; see the top of this module for the order."""
        state = self._states.get(_key_of(run))
        if state is None:
            # Nobody knows whether the marks that are kept now are those these follow from.
            raise MarksMovedError(f"run {run.run!r} is not open")
        marks = _with_superseded(marks, state.record.marks, events)
        planned = plan(events)
        changes = self._opener.note(state, planned)
        if planned.wants_model:
            changes |= await self._send(state, planned, changes, marks)
        else:
            changes |= due_metrics(state.record.fields, planned).kept
        await self._store.save(run, state.record, marks, **changes)
        state.settle()

    async def keep_alive(self, run: RunRef) -> None:
        """Send the heartbeat of the run's model, if it has one."""
        state = self._states.get(_key_of(run)) or RunState(run, await self._store.read(run))
        if state.model is None:
            return
        try:
            await self._opener.beat(state)
        except MarksMovedError:
            logger.info("hub: run %s: another worker has it now", run.run)

    async def close_run(self, run: RunRef) -> None:
        """Forget a run."""
        self._states.pop(_key_of(run), None)

    async def contents(self, run: RunRef) -> SinkContents | None:
        """The marks, if HUB still has the model. Its points cannot be counted."""
        state = RunState(run, await self._store.read(run))
        if state.model is None:
            return SinkContents(state.record.marks) if state.record.raw is not None else None
        try:
            await self._client.load(await self._opener.key_of(state), state.model)
        except PermanentSinkError:
            return None
        return SinkContents(state.record.marks, url=self._opener.url(state.model))

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()
        await self._store.close()

    async def _send(
        self, state: RunState, planned: Plan, changes: dict[str, Any], marks: Marks
    ) -> dict[str, Any]:
        """Steps 1 to 3 of a write; returns what is to be kept with the marks."""
        await self._opener.open(state, changes)
        key = await self._opener.key_of(state)
        try:
            kept = await self._send_metrics(state, key, planned)
            fields = {**state.record.fields, **kept}
            return kept | await self._weights.send(state, key, planned, fields, marks)
        except RefusedError as error:
            if error.status == _NOT_FOUND:  # somebody has deleted the model
                self._opener.refuse(state, error)
            raise

    async def _send_metrics(self, state: RunState, key: ApiKey, planned: Plan) -> dict[str, Any]:
        """One request with all epochs that are new or have more; returns what is to be kept."""
        due = due_metrics(state.record.fields, planned)
        if due.epochs and due.epochs != state.sent:
            # The worker's tokens are taken before the model is made and connections are free:
            # among a thousand models two requests three seconds apart would arrive together.
            await asyncio.sleep(state.metrics_at + self._metrics_gap_seconds - time.monotonic())
            await self._client.send_metrics(key, str(state.model), due.epochs)
            state.metrics_at = time.monotonic()
            state.sent = due.epochs
        return due.kept


def _with_superseded(marks: Marks, before: Marks, events: Sequence[Event]) -> Marks:
    """Marks for the log, with the checkpoints that the sink itself left out earlier."""
    marks = marks.copy()
    for source, ids in before.superseded.items():
        again = IdRanges((event.id, event.id) for event in events if event.source == source)
        marks.superseded.setdefault(source, IdRanges()).update(ids.without(again))
    return marks


def _key_of(run: RunRef) -> _Key:
    return (run.project, run.run)
