"""Makes the requests of a batch, and remembers what Platform answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from bus.errors import PermanentSinkError, RetryableSinkError, SinkError
from bus.kinds import Blob, Checkpoint
from bus.sinks import RunRef, StopListener
from subscribers.hub.answers import RefusedError, one_line
from subscribers.hub.blobs import stream
from subscribers.hub.platform.api import Identity, PlatformApi
from subscribers.hub.platform.calls import Call
from subscribers.hub.platform.fold import is_model
from subscribers.hub.platform.held import Curve, Held, Staged, Told, to_fields
from subscribers.hub.platform.names import model_name, project_name
from subscribers.hub.state import RunRecord, StateStore

__all__ = ["RunState", "Teller"]

logger = logging.getLogger(__name__)

_STARTED = "training_started"
_GONE = 404
_REFUSED_DATA = {400, 413, 422}
"""Answers that are about what was sent, and not about the run."""

_REFUSED_SECONDS = 60.0
"""A run that Platform will not have is not offered again for every event of it."""

_MAX_STOPS = 5
_MAX_WARNINGS = 20

_UPLOADS_AT_ONCE = 16
"""A few hundred KiB each."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Platform will not have a run.

    Attributes:
        error: What it said.
        is_of_start: Of the run itself; else its model is gone.
        until: When it is asked again, Unix seconds.
    """

    error: RefusedError
    is_of_start: bool
    until: float


@dataclass(slots=True)
class RunState:
    """A run that is open.

    Attributes:
        record: As kept in the event log.
        held: What its events have said, as kept.
        told: What Platform has answered; newer than kept while a batch is written.
        refusal: Platform will not have the run at all.
        has_passed_stop: This worker has passed on that it is to stop.
        warned: What was logged about it.
    """

    run: RunRef
    record: RunRecord
    held: Held
    told: Told
    refusal: Refusal | None = None
    has_passed_stop: bool = False
    warned: set[str] = field(default_factory=set)

    def check_refusal(self, is_start: bool, now: float) -> None:
        """Raise what Platform said a short time ago, instead of asking again for every event.

        A new beginning is asked for all the same, unless that was what it refused.
        """
        refusal = self.refusal
        if refusal is not None and now < refusal.until and (refusal.is_of_start or not is_start):
            raise refusal.error

    def identity(self, held: Held, told: Told) -> Identity:
        """As requests name the run."""
        return Identity(
            self.run.run,
            project_name(held.project or self.run.project),
            model_name(held.name or self.run.run_name),
            told.model_id,
            told.run_id,
        )


class Teller:
    """Tells Platform what a batch asks for.

    Args:
        api: Platform.
        store: Where the run is kept.
        clock: Unix seconds.

    Attributes:
        on_stop: Is told when Platform asks that a run stops.
    """

    def __init__(
        self, api: PlatformApi, store: StateStore, clock: Callable[[], float] = time.time
    ) -> None:
        self._api = api
        self._store = store
        self._clock = clock
        self._turns = asyncio.Semaphore(_UPLOADS_AT_ONCE)
        self.on_stop: StopListener | None = None

    async def tell(self, state: RunState, held: Held, call: Call) -> bool:
        """Make one request, unless it was made before.

        Args:
            state: Of the run; ``told`` is changed.
            held: What its events have said, this batch included.
            call: What to tell.

        Returns:
            False when a checkpoint was left out, because Platform holds a better one.

        Raises:
            SinkError: It could not be told; see :mod:`subscribers.hub.platform.api`.
        """
        if call.key in state.told.done:
            return True
        is_start = call.event == _STARTED
        state.check_refusal(is_start, self._clock())
        if state.told.forget(call.place):
            # Before the request, whose answer may be lost.
            await self._keep(state)
        is_told = True
        try:
            if is_start:
                await self._start(state, held, call)
            elif call.checkpoint is not None:
                is_told = await self._save(state, held, call)
            else:
                await self._send(state, held, call)
        except RefusedError as error:
            if is_start or error.status == _GONE:
                state.refusal = Refusal(error, is_start, self._clock() + _REFUSED_SECONDS)
            if is_start or call.origins or error.status not in {*_REFUSED_DATA, _GONE}:
                raise
            # Its events were accepted in an earlier batch; those of this one are not to blame.
            state.told.refused += 1
            logger.error("hub: run %s: left out, and not sent again: %s", state.run.run, error)
        if is_told:
            state.told.note_done(call.key)
        return is_told

    async def _start(self, state: RunState, held: Held, call: Call) -> None:
        """Register the run, or go on with its model when it was started again.

        As Platform's own client does: where the model is gone, or was stopped from there, the
        training goes on as a new one.
        """
        told = state.told
        answer: dict[str, Any] | None = None
        if told.model_id:
            try:
                answer = await self._ask(state, held, told, call.event, call.data)
            except RefusedError as error:
                if error.status != _GONE:
                    raise
        if answer is None or (told.model_id and answer.get("cancelled") is True):
            told = Told(done=told.done, refused=told.refused)
            answer = await self._ask(state, held, told, call.event, call.data)
        if not _text(answer, "modelId"):
            raise RetryableSinkError(
                f"sending {call.event} of run {state.run.run!r}: the answer names no model"
            )
        if told is not state.told:
            state.has_passed_stop = False
        state.told, state.refusal = told, None
        self._hear(state, answer)

    async def _send(self, state: RunState, held: Held, call: Call) -> None:
        data = call.data
        if call.event == "training_complete":
            data = await self._completed(state, call)
        self._hear(state, await self._ask(state, held, state.told, call.event, data))

    async def _save(self, state: RunState, held: Held, call: Call) -> bool:
        """Upload a checkpoint and promote it: from then on it is the run's model on Platform."""
        event, told = call.checkpoint, state.told
        assert event is not None
        data = event.data
        assert isinstance(data, Checkpoint)
        if told.is_best and not is_model(data):
            return False
        staged = told.staged
        if staged is None or staged.key != call.key:
            staged = await self._upload(state, held, call.key, str(event.dataref), data.blob)
        if told.run_id is not None:
            await self._promote(state, held, call.event, staged)
        told.staged = None
        told.model_path, told.model_size, told.is_best = staged.path, staged.size, is_model(data)
        return True

    async def _upload(
        self, state: RunState, held: Held, key: str, dataref: str, blob: Blob
    ) -> Staged:
        """Upload a checkpoint and keep that it was: it may be large, and what follows may fail."""
        async with self._turns:
            await self._store.check(state.run, state.record)
            staged = await self._api.store(state.identity(held, state.told), key, dataref, blob)
        state.told.staged = staged
        await self._keep(state)
        return staged

    async def _keep(self, state: RunState) -> None:
        await self._store.save(state.run, state.record, told=to_fields(state.told))

    async def _promote(self, state: RunState, held: Held, event: str, staged: Staged) -> None:
        """Tell of an uploaded checkpoint: from then on it is the run's model on Platform."""
        data = {
            "runId": state.told.run_id,
            "modelPath": staged.path,
            "uploadPath": staged.upload_path,
        }
        try:
            self._hear(state, await self._ask(state, held, state.told, event, data))
        except RefusedError as error:
            if error.status == _GONE:
                raise
            # Platform keeps what is only uploaded for a time: it is uploaded anew, not for ever.
            state.told.staged = None
            raise SinkError(str(error)) from error

    async def _completed(self, state: RunState, call: Call) -> dict[str, Any]:
        """The data of the end with the model that Platform holds, and the plots."""
        told, data = state.told, dict(call.data)
        if told.model_path:
            model = {"modelPath": told.model_path, "modelSize": told.model_size}
            data["results"] = {**data["results"], **model}
        plots: dict[str, Any] = {}
        for curve in call.curves:
            plot = await self._read(state, curve)
            if plot is not None:
                plots.setdefault(plot["type"], plot)
        data["plots"] = list(plots.values())
        return data if told.run_id is None else {**data, "runId": told.run_id}

    async def _read(self, state: RunState, curve: Curve) -> dict[str, Any] | None:
        """A plot as data; None when it is none that Platform knows, or is gone."""
        try:
            parts = [chunk async for chunk in stream(curve.dataref, curve.blob)]
            plot = orjson.loads(b"".join(parts))
        except (PermanentSinkError, orjson.JSONDecodeError) as error:
            self._warn(state, f"plot {curve.blob.name} is left out: {error}")
            return None
        return plot if isinstance(plot, dict) and isinstance(plot.get("type"), str) else None

    async def _ask(
        self, state: RunState, held: Held, told: Told, event: str, data: Mapping[str, Any]
    ) -> dict[str, Any]:
        return await self._api.send(state.identity(held, told), event, dict(data))

    def _hear(self, state: RunState, answer: Mapping[str, Any]) -> None:
        """Note what an answer says of the run."""
        told = state.told
        told.model_id = _text(answer, "modelId") or told.model_id
        told.model_url = _text(answer, "modelUrl") or told.model_url
        run_id = answer.get("runId")
        if isinstance(run_id, int | str) and not isinstance(run_id, bool):
            told.run_id = run_id
        for name in ("warning", "ignored"):
            if text := _text(answer, name):
                self._warn(state, f"Platform says {name}: {one_line(text)}")
        if answer.get("cancelled") is True and not state.has_passed_stop:
            self._stop(state, _text(answer, "reason"))

    def _stop(self, state: RunState, reason: str) -> None:
        """Pass on that somebody has pressed stop: once, and once more by each that takes over.

        A notice that was not on its way yet was lost with the worker before. It is not repeated
        for ever: Platform says the same with every answer, as long as the training goes on.
        """
        why = "stopped on Ultralytics Platform"
        why += f": {one_line(reason)}" if reason else ""
        self._warn(state, why)
        if self.on_stop is not None:
            state.has_passed_stop = True
            if state.told.stops < _MAX_STOPS:
                state.told.stops += 1
                self.on_stop(state.run, why)

    def _warn(self, state: RunState, text: str) -> None:
        if text not in state.warned and len(state.warned) < _MAX_WARNINGS:
            state.warned.add(text)
            logger.warning("hub: run %s: %s", state.run.run, text)


def _text(answer: Mapping[str, Any], name: str) -> str:
    found = answer.get(name)
    return found if isinstance(found, str) else ""
