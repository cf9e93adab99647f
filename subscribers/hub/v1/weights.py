"""Uploads of weights: which, how often tried, and what waits."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from bus.errors import PermanentSinkError, RetryableSinkError
from bus.events import Event
from bus.kinds import Checkpoint
from bus.sinks import Marks
from subscribers.hub.blobs import check_is_file
from subscribers.hub.keys import ApiKey
from subscribers.hub.progress import Uploads
from subscribers.hub.state import StateStore
from subscribers.hub.v1.client import HubClient, new_boundary
from subscribers.hub.v1.finals import FinalTries
from subscribers.hub.v1.models import RunState
from subscribers.hub.v1.plan import Plan, choose_uploads
from subscribers.hub.v1.requests import checkpoint_form, final_form

__all__ = ["Weights"]

logger = logging.getLogger(__name__)

_UPLOADS_AT_ONCE = 16
"""A few hundred KiB each."""


class Weights:
    """Uploads the checkpoints of batches.

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
        """Upload one checkpoint of a batch, if there is any.

        Args:
            state: Of the run, which has a model.
            key: For it.
            planned: The batch.
            fields: What is known of the run with the metrics of the batch.
            marks: Those that need no upload are noted here as superseded.

        Returns:
            What is to be kept.

        Raises:
            RetryableSinkError: It is to be tried again.
            PermanentSinkError: It never will be taken, or was tried often enough.
            MarksMovedError: Another worker has the run.
        """
        pending = fields.get("pending")
        now, waiting, skipped = choose_uploads(planned.checkpoints)
        if now is not None:
            await self._send_one(state, key, now, fields)
            for event in skipped:
                marks.add_superseded(event.source, event.id)
            if pending is not None:
                marks.add_superseded(*pending)
            pending = None if waiting is None else [waiting.source, waiting.id]
        if pending is not None and planned.is_finished:
            await self._send_pending(state, key, pending, fields)
            pending = None
        return {"pending": pending, "final": None}

    async def _send_one(
        self, state: RunState, key: ApiKey, event: Event, fields: Mapping[str, Any]
    ) -> None:
        name = (event.source, event.id)
        if name in state.uploaded:
            return
        data = _checkpoint(event)
        check_is_file(data.blob, "HUB")
        if data.is_final:
            await self._try_final(state, key, event, fields)
        else:
            await self._upload(state, key, event, fields)
        state.uploaded.add(name)

    async def _send_pending(
        self, state: RunState, key: ApiKey, pending: list[Any], fields: Mapping[str, Any]
    ) -> None:
        """The run ends without a final model: its last weights are what it can be resumed from."""
        event = await self._store.event(*pending)
        if event is None:
            return
        try:
            await self._send_one(state, key, event, fields)
        except PermanentSinkError as error:
            logger.warning("hub: run %s: its last weights: %s", state.run.run, error)

    async def _try_final(
        self, state: RunState, key: ApiKey, event: Event, fields: Mapping[str, Any]
    ) -> None:
        is_dead = state.record.marks.is_dead(event.source, event.id)
        now = self._clock()
        tries = FinalTries.of(fields.get("final"), event.source, event.id, is_dead, now)
        if tries.is_over(now):
            raise PermanentSinkError(f"the final model was not uploaded in {tries.tries} tries")
        if now < tries.next_at:
            wait = math.ceil(tries.next_at - now)
            raise RetryableSinkError(f"the final model is tried again in {wait} s")
        tries = tries.begin(now)
        # Before the try: a worker that dies of it must not begin to count anew.
        await self._store.save(state.run, state.record, final=tries.to_json())
        try:
            await self._upload(state, key, event, fields)
        except RetryableSinkError as error:
            if tries.is_over(self._clock()):
                text = f"the final model was not uploaded in {tries.tries} tries: {error}"
                raise PermanentSinkError(text) from error
            raise

    async def _upload(
        self, state: RunState, key: ApiKey, event: Event, fields: Mapping[str, Any]
    ) -> None:
        data = _checkpoint(event)
        epoch = data.epoch if data.epoch is not None else int(fields.get("epoch") or 0)
        if data.is_final:
            form = final_form(epoch, _quality(data, fields), new_boundary())
        else:
            form = checkpoint_form(epoch, data.is_best, new_boundary())
        async with self._turns:
            await self._store.check(state.run, state.record)
            with self._uploads.begin(state.run.run, form.file, data.blob.size) as progress:
                await self._client.upload(
                    key, str(state.model), form, str(event.dataref), data.blob, progress
                )


def _checkpoint(event: Event) -> Checkpoint:
    assert isinstance(event.data, Checkpoint)
    return event.data


def _quality(data: Checkpoint, fields: Mapping[str, Any]) -> float:
    """The mean average precision that HUB shows: as last logged, or the fitness, or nothing."""
    for value in (fields.get("map"), data.fitness):
        if value is not None and math.isfinite(number := float(value)):
            return number
    return 0.0
