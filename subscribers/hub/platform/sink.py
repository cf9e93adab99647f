"""The sink of Ultralytics Platform: runs as models, with their epochs and weights.

A batch is written in parts, so that a kill at any point repeats one request at the most:

1. what its events ask for is decided (:mod:`subscribers.hub.platform.fold`), at most some tens of
   requests at a time;
2. each request is made and what Platform answers is kept, with the request's key, in the event log;
3. the marks of these events are kept with what they have said, in one write.

A batch that is written again asks for the same requests, and those that were made are left out.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from bus.config import Settings
from bus.errors import ConfigError, MarksMovedError
from bus.events import Event
from bus.idranges import IdRanges
from bus.ratelimit import Rate, RateLimits
from bus.sinks import BatchLimits, Marks, RunRef, SinkContents, StopListener
from subscribers.hub.answers import Place
from subscribers.hub.http import HttpClient, Times
from subscribers.hub.keys import ApiKey, read_address, read_key
from subscribers.hub.platform.api import ADDRESS_VARIABLE, PlatformApi
from subscribers.hub.platform.calls import Call
from subscribers.hub.platform.fold import KINDS, Fold
from subscribers.hub.platform.held import Held, load_held, load_told, to_fields
from subscribers.hub.platform.quota import Quota
from subscribers.hub.platform.teller import RunState, Teller
from subscribers.hub.platform.windows import PLANS, Plan
from subscribers.hub.progress import Uploads
from subscribers.hub.state import StateStore

__all__ = ["KEY_VARIABLE", "PlatformSink", "create_platform"]

KEY_VARIABLE = "ULTRALYTICS_API_KEY"
_PLAN_VARIABLE = "TRAINBUS_PLATFORM_PLAN"
_ADDRESS = "https://platform.ultralytics.com"
_KEY_FORM = re.compile(r"ul_[0-9a-fA-F]{40}")

_LIMITS = BatchLimits(events=200, size_bytes=1024 * 1024)

_CALLS_AT_ONCE = 50
"""Requests that a part of a batch asks for, but for one event that alone asks for more."""

_CHECKPOINTS = Rate(1 / 900, 1)
"""As Platform's own client: one in 15 minutes. A final one does not have to wait for that."""

_LOOK_SECONDS = 30.0
_QUIET_SECONDS = 60.0
"""An epoch for which nothing has come for so long is sent as it is."""

_PARTIAL_SECONDS = 900.0
"""Likewise, when it lacks what the epoch before it had: an evaluation may take its time."""

_TIMES = Times(call_seconds=90.0)
"""Platform copies a checkpoint before it answers; its own client waits as long."""

_SHOWN_RUNS = 3
_SHOWN_CHARACTERS = 60
"""Of a run's id: heartbeats stay small."""

_Key = tuple[str, str]


def create_platform(settings: Settings, environ: Mapping[str, str]) -> PlatformSink:
    """Make the sink from ``ULTRALYTICS_API_KEY`` and Platform's other variables.

    Raises:
        ConfigError: A variable is wrong or missing, or there is no event log.
    """
    key = read_key(environ, KEY_VARIABLE, "Authorization", "Bearer")
    if key is None:
        raise ConfigError(f"Ultralytics Platform needs a key: set {KEY_VARIABLE}")
    if not _KEY_FORM.fullmatch(key.value):
        raise ConfigError(f"{KEY_VARIABLE}: a key of Platform is ul_ and 40 hexadecimal digits")
    plan = environ.get(_PLAN_VARIABLE) or "free"
    if plan not in PLANS:
        raise ConfigError(f"{_PLAN_VARIABLE}={plan!r}: use {' or '.join(sorted(PLANS))}")
    address = read_address(environ, ADDRESS_VARIABLE, _ADDRESS)
    return PlatformSink(StateStore.of(settings, "hub", "platform"), address, key, PLANS[plan])


class PlatformSink:
    """A :class:`bus.sinks.Sink`.

    Args:
        store: Where marks, and what is known of runs, are kept.
        address: Base URL of Platform.
        key: The key.
        plan: What it allows.
        times: Time limits of requests.
        clock: Unix seconds.
        sleep: Waits for the next request that is allowed.
    """

    def __init__(
        self,
        store: StateStore,
        address: str,
        key: ApiKey,
        plan: Plan,
        times: Times | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._plan = plan
        self._uploads = Uploads()
        self._quota = Quota(store, plan, clock, sleep)
        http = HttpClient(
            Place("Ultralytics Platform", address, ADDRESS_VARIABLE), times or _TIMES, clock
        )
        self._api = PlatformApi(http, key, self._quota, self._uploads)
        self._teller = Teller(self._api, store, clock)
        self._states: dict[_Key, RunState] = {}
        self._locks: dict[_Key, asyncio.Lock] = {}

    @property
    def name(self) -> str:
        """``hub``."""
        return "hub"

    @property
    def limits(self) -> BatchLimits:
        """A few requests each, as a rule."""
        return _LIMITS

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that have a place on Platform."""
        return KINDS

    @property
    def rate_limits(self) -> RateLimits:
        """Calls of the sink; the requests themselves are counted by :class:`Quota`."""
        per_minute = self._plan.per_minute
        return RateLimits(Rate(per_minute / 60, per_minute / 2), kinds={"checkpoint": _CHECKPOINTS})

    @property
    def keep_alive_seconds(self) -> float:
        """How often it is looked whether an epoch is to be sent without waiting for the next."""
        return _LOOK_SECONDS

    def tell_stops_to(self, listener: StopListener) -> None:
        """See :class:`bus.sinks.TellsToStop`."""
        self._teller.on_stop = listener

    def state(self) -> dict[str, Any]:
        """Uploads under way, how much of the limits is used, and which runs were stopped there."""
        states = self._states.values()
        stopped = sorted(s.run.run[:_SHOWN_CHARACTERS] for s in states if s.told.stops)
        refused = sum(state.told.refused for state in states)
        return {
            **self._uploads.state(),
            **self._quota.used(),
            **({"stopped": len(stopped), "stopped_runs": stopped[:_SHOWN_RUNS]} if stopped else {}),
            **({"refused": refused} if refused else {}),
        }

    async def open_run(self, run: RunRef) -> Marks:
        """Read what is kept of the run. Platform is told of it when its params are known."""
        async with self._lock_of(run):
            return (await self._open(run)).record.marks.copy()

    async def write(self, run: RunRef, events: Sequence[Event], marks: Marks) -> None:
        """Write events and marks; see the top of this module for the order."""
        async with self._lock_of(run):
            state = self._states.get(_key_of(run)) or await self._open(run)
            try:
                await self._write(state, events, marks)
            except MarksMovedError:
                self._states.pop(_key_of(run), None)
                raise

    async def keep_alive(self, run: RunRef) -> None:
        """Send an epoch that waits for nothing but the next one."""
        lock = self._lock_of(run)
        if lock.locked():
            return
        try:
            async with lock:
                await self._send_quiet(self._states.get(_key_of(run)) or await self._load(run))
        except MarksMovedError:
            self._states.pop(_key_of(run), None)
        finally:
            if _key_of(run) not in self._states and not lock.locked():
                self._locks.pop(_key_of(run), None)

    async def close_run(self, run: RunRef) -> None:
        """Forget a run."""
        self._states.pop(_key_of(run), None)
        lock = self._locks.get(_key_of(run))
        if lock is not None and not lock.locked():
            del self._locks[_key_of(run)]

    async def contents(self, run: RunRef) -> SinkContents | None:
        """The marks, and the page of the model. Platform cannot be asked what it holds."""
        record = await self._store.read(run)
        if record.raw is None:
            return None
        return SinkContents(record.marks, url=load_told(record.fields, run).model_url or None)

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()
        await self._store.close()

    async def _open(self, run: RunRef) -> RunState:
        state = self._states[_key_of(run)] = await self._load(run)
        return state

    async def _load(self, run: RunRef) -> RunState:
        record = await self._store.read(run)
        held, told = load_held(record.fields, run), load_told(record.fields, run)
        return RunState(run, record, held, told)

    async def _send_quiet(self, state: RunState) -> None:
        epochs = state.held.epochs
        patience = _PARTIAL_SECONDS if epochs.is_partial else _QUIET_SECONDS
        if epochs.pending is None or self._clock() - state.held.row_at < patience:
            return
        held = state.held.copy()
        fold = Fold(held)
        fold.close_epoch()
        await self._finish(state, held, fold, state.record.marks.copy())

    async def _write(self, state: RunState, events: Sequence[Event], marks: Marks) -> None:
        before = state.record.marks
        new = [event for event in events if not _is_written(before, event)]
        held = state.held.copy()
        fold = Fold(held)
        reached = before.copy()
        for number, event in enumerate(new, start=1):
            fold.take(event)
            reached.revive(event.source, event.id)
            if len(fold.calls) >= _CALLS_AT_ONCE and number < len(new):
                await self._finish(state, held, fold, reached)
                held = state.held.copy()
                fold = Fold(held)
                reached = state.record.marks.copy()
        fold.finish()
        if any(event.kind == "metrics" for event in new):
            held.row_at = self._clock()
        await self._finish(state, held, fold, _joined(marks, state.record.marks))

    async def _finish(self, state: RunState, held: Held, fold: Fold, marks: Marks) -> None:
        """Make the requests of a part of a batch, and keep that they were made."""
        for source, number in fold.left_out:
            marks.add_superseded(source, number)
        if fold.calls:
            # Stopped past a takeover, we would tell what our successor has told.
            await self._store.check(state.run, state.record)
        for index, call in enumerate(fold.calls, start=1):
            await self._tell(state, held, call, marks, is_last=index == len(fold.calls))
        told = state.told
        keys = {call.key for call in fold.calls}
        told.done = [key for key in told.done if key not in keys]
        fields = {"held": to_fields(held), "told": to_fields(told)}
        await self._store.save(state.run, state.record, marks, **fields)
        state.held = held

    async def _tell(
        self, state: RunState, held: Held, call: Call, marks: Marks, *, is_last: bool
    ) -> None:
        was_made = call.key in state.told.done
        if not await self._teller.tell(state, held, call) and call.checkpoint is not None:
            marks.add_superseded(call.checkpoint.source, call.checkpoint.id)
        if not is_last and not was_made:
            await self._store.save(state.run, state.record, told=to_fields(state.told))

    def _lock_of(self, run: RunRef) -> asyncio.Lock:
        return self._locks.setdefault(_key_of(run), asyncio.Lock())


def _is_written(marks: Marks, event: Event) -> bool:
    """An earlier try got so far; what was given up is tried again when somebody asks for it."""
    number = event.id
    return marks.is_applied(event.source, number) and not marks.is_dead(event.source, number)


def _joined(marks: Marks, kept: Marks) -> Marks:
    """The worker's marks, with what this sink has left out itself, or got done before it failed."""
    joined = marks.copy()
    for source, ids in kept.applied.items():
        joined.applied[source] = joined.applied.get(source, IdRanges()).copy()
        joined.applied[source].update(ids)
    for source, ids in kept.superseded.items():
        joined.superseded.setdefault(source, IdRanges()).update(ids)
    return joined


def _key_of(run: RunRef) -> _Key:
    return (run.project, run.run)
