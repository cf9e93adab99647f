"""Uploads of weights: when, how often tried, and what waits."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from bus.errors import PermanentSinkError, RetryableSinkError, SinkError
from bus.events import Event
from bus.kinds import Blob, Checkpoint, Number
from bus.sinks import Marks
from subscribers.hub.blobs import check_is_file, check_is_there
from subscribers.hub.keys import ApiKey
from subscribers.hub.progress import Uploads
from subscribers.hub.state import StateStore
from subscribers.hub.v1.client import HubClient, new_boundary
from subscribers.hub.v1.finals import FinalTries
from subscribers.hub.v1.models import RunState
from subscribers.hub.v1.pending import Pending, Waiting
from subscribers.hub.v1.plan import Plan
from subscribers.hub.v1.requests import Form, checkpoint_form, final_form

__all__ = ["Weights"]

logger = logging.getLogger(__name__)

_UPLOADS_AT_ONCE = 16
"""A few hundred KiB each."""


class Weights:
    """Uploads the checkpoints of runs.

    Args:
        client: HUB.
        store: Where tries are kept, and whether the run is still ours.
        uploads: Where uploads are shown.
        clock: Unix seconds.
    """

    def __init__(
        self,
        client: HubClient,
        store: StateStore,
        uploads: Uploads,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._store = store
        self._uploads = uploads
        self._clock = clock
        self._turns = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    async def send(
        self, state: RunState, key: ApiKey, planned: Plan, fields: Mapping[str, Any], marks: Marks
    ) -> dict[str, Any]:
        """Take in the checkpoints of a batch, and upload what has its turn.

        Args:
            state: Of the run, which has a model.
            key: For it.
            planned: The batch.
            fields: What is known of the run with the metrics of the batch.
            marks: Those whose place another takes are noted here as superseded.

        Returns:
            What is to be kept.

        Raises:
            RetryableSinkError: The final model, or what the end of the run waits for, is to be
                tried again. Nothing else is: it waits.
            PermanentSinkError: One will never be taken, or was tried often enough.
            MarksMovedError: Another worker has the run.
        """
        pending = Pending.from_json(fields.get("pending"))
        ended = fields.get("ended_by")
        final, new = _sorted_out(planned, ended, marks)
        for one in new:
            await check_is_there(one.dataref, one.blob)
        pending, gone = pending.add(new)
        for name in gone:
            marks.add_superseded(*name)
        if final is not None:
            await self._try_final(state, key, final, fields)
            for one in pending.all():
                marks.add_superseded(*one.id)
            return {"pending": None, "final": None, "ended_by": final.source}
        if planned.is_finished:
            pending = await self._send_all(state, key, pending, fields, new)
        elif pending.first is not None and self._clock() >= pending.next_at:
            pending = await self._send_first(state, key, pending, fields, new)
        return {"pending": pending.to_json() if pending != Pending() else None}

    async def _send_first(
        self,
        state: RunState,
        key: ApiKey,
        pending: Pending,
        fields: Mapping[str, Any],
        new: list[Waiting],
    ) -> Pending:
        """Upload what goes next; what fails for a while goes on waiting."""
        first, began = pending.first, self._clock()
        assert first is not None
        try:
            is_done = await self._send_or_give_up(state, key, first, fields, new)
        except RetryableSinkError as error:
            pending = pending.failed(self._clock(), error.retry_after_seconds)
            wait = pending.next_at - self._clock()
            logger.warning("hub: run %s: again in %.0f s: %s", state.run.run, wait, error)
            return pending
        return pending.done(first, began) if is_done else pending.without(first)

    async def _send_all(
        self,
        state: RunState,
        key: ApiKey,
        pending: Pending,
        fields: Mapping[str, Any],
        new: list[Waiting],
    ) -> Pending:
        """The run ends without a final model: what waits is what it can be resumed from."""
        for one in pending.all():
            began = self._clock()
            await self._send_or_give_up(state, key, one, fields, new)
            pending = pending.done(one, began)
        return pending

    async def _send_or_give_up(
        self,
        state: RunState,
        key: ApiKey,
        one: Waiting,
        fields: Mapping[str, Any],
        new: list[Waiting],
    ) -> bool:
        """Upload weights; False when they never can be, and their event is no longer in hand."""
        try:
            await self._send_one(state, key, one, fields)
        except SinkError as error:
            is_of_the_file = type(error) is SinkError or isinstance(error, PermanentSinkError)
            if one in new or not is_of_the_file:
                raise
            # Its event was marked as applied long since: there is no dead letter to make.
            logger.error("hub: run %s: weights given up: %s", state.run.run, error)
            return False
        return True

    async def _send_one(
        self, state: RunState, key: ApiKey, one: Waiting, fields: Mapping[str, Any]
    ) -> None:
        if one.id in state.uploaded:
            return
        epoch = _epoch(one.epoch, fields)
        form = checkpoint_form(epoch, one.is_best, new_boundary())
        await self._upload(state, key, form, one.dataref, one.blob)
        state.uploaded.add(one.id)

    async def _try_final(
        self, state: RunState, key: ApiKey, event: Event, fields: Mapping[str, Any]
    ) -> None:
        name, data = (event.source, event.id), _checkpoint(event)
        if name in state.uploaded:
            return
        now = self._clock()
        is_dead = state.record.marks.is_dead(*name)
        tries = FinalTries.of(fields.get("final"), *name, is_dead, now)
        if tries.is_over(now):
            raise PermanentSinkError(f"the final model was not uploaded in {tries.tries} tries")
        if now < tries.next_at:
            wait = math.ceil(tries.next_at - now)
            raise RetryableSinkError(f"the final model is tried again in {wait} s")
        tries = tries.begin(now)
        # Before the try: a worker that dies of it must not begin to count anew.
        await self._store.save(state.run, state.record, final=tries.to_json())
        quality = _quality(fields.get("map"), data.fitness)
        form = final_form(_epoch(data.epoch, fields), quality, new_boundary())
        try:
            await self._upload(state, key, form, str(event.dataref), data.blob)
        except RetryableSinkError as error:
            if tries.is_over(self._clock()):
                text = f"the final model was not uploaded in {tries.tries} tries: {error}"
                raise PermanentSinkError(text) from error
            raise
        state.uploaded.add(name)

    async def _upload(
        self, state: RunState, key: ApiKey, form: Form, dataref: str, blob: Blob
    ) -> None:
        async with self._turns:
            await self._store.check(state.run, state.record)
            with self._uploads.begin(state.run.run, form.file, blob.size) as progress:
                await self._client.upload(key, str(state.model), form, dataref, blob, progress)


def _sorted_out(
    planned: Plan, ended_by: str | None, marks: Marks
) -> tuple[Event | None, list[Waiting]]:
    """The final model of a batch and the weights before it; what need not be sent is marked."""
    final: Event | None = None
    new: list[Waiting] = []
    for event in planned.checkpoints:
        data = _checkpoint(event)
        check_is_file(data.blob, "HUB")
        if data.is_final:
            if final is not None:
                marks.add_superseded(final.source, final.id)
            final = event
        elif event.source == ended_by:
            # It was overtaken by the final model of its source.
            marks.add_superseded(event.source, event.id)
        else:
            new.append(Waiting.of(event))
    return final, new


def _checkpoint(event: Event) -> Checkpoint:
    assert isinstance(event.data, Checkpoint)
    return event.data


def _epoch(epoch: int | None, fields: Mapping[str, Any]) -> int:
    return max(epoch if epoch is not None else int(fields.get("epoch") or 0), 0)


def _quality(logged: float | None, fitness: Number | None) -> float:
    """The mean average precision that HUB shows: as last logged, or the fitness, or nothing."""
    for value in (logged, fitness):
        if value is not None and math.isfinite(number := float(value)):
            return number
    return 0.0
