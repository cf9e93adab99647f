"""Which model a run is in HUB: found by its identifier, or made when it is known of what."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bus.errors import PermanentSinkError, RetryableSinkError
from bus.events import Event
from bus.kinds import RunStarted
from bus.sinks import RunRef
from subscribers.hub.keys import ApiKey
from subscribers.hub.state import RunRecord, StateStore
from subscribers.hub.v1.client import HubClient
from subscribers.hub.v1.identifiers import parse_identifier
from subscribers.hub.v1.plan import Plan
from subscribers.hub.v1.requests import Values, create_body

__all__ = ["ModelOpener", "RunState"]

logger = logging.getLogger(__name__)

_ASK_AGAIN_SECONDS = 60.0
"""A run that HUB refused is asked about again after so long: somebody may have put it right."""

_FILES = (".pt", ".yaml")


@dataclass(slots=True)
class RunState:
    """A run while it is open.

    Attributes:
        run: Which.
        record: What is kept of it.
        key: The key of its identifier, once it is known.
        refused: Why HUB does not take it.
        ask_again_at: When it may be asked again (Unix seconds).
        sent: The metrics that HUB has and no mark says so yet.
        uploaded: The same of checkpoints.
    """

    run: RunRef
    record: RunRecord
    key: ApiKey | None = None
    refused: str = ""
    ask_again_at: float = 0.0
    sent: Mapping[int, Values] | None = None
    metrics_at: float = -math.inf
    uploaded: set[tuple[str, int]] = field(default_factory=set)

    @property
    def model(self) -> str | None:
        """The id of its model, once there is one."""
        return self.record.fields.get("model")

    def settle(self) -> None:
        """A batch is written. A try that failed before may have been of more events than it."""
        self.sent = None
        marks = self.record.marks
        self.uploaded = {one for one in self.uploaded if not marks.is_applied(*one)}


class ModelOpener:
    """Loads and makes models, and knows the key of each.

    Args:
        client: HUB.
        store: Where ids are kept.
        web: Root of the web pages, with which identifiers begin.
        key: For runs whose identifier holds none.
        clock: Unix seconds.
    """

    def __init__(
        self,
        client: HubClient,
        store: StateStore,
        web: str,
        key: ApiKey | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._store = store
        self._web = web
        self._key = key
        self._clock = clock
        self._known_keys: set[str] = set()

    def note(self, state: RunState, planned: Plan) -> dict[str, Any]:
        """What is to be kept of how the run begins, until it has a model."""
        if state.model is not None:
            return {}
        changes: dict[str, Any] = {}
        arguments = {**state.record.fields.get("arguments", {}), **planned.arguments}
        if arguments:
            changes["arguments"] = arguments
        named = _named_model(planned.start)
        if planned.start is not None and named is not None:
            changes["start"] = [planned.start.source, planned.start.id]
            changes["identifier"] = self._read(state, named)
        return changes

    async def open(self, state: RunState, changes: dict[str, Any]) -> None:
        """Give the run its model, unless it has one. What was to be kept is kept then.

        Raises:
            PermanentSinkError: The identifier is none, HUB has no such model, or it is trained.
            RetryableSinkError: HUB cannot be asked now.
            MarksMovedError: Another worker has the run.
        """
        if state.refused and self._clock() < state.ask_again_at:
            raise PermanentSinkError(state.refused)
        if state.model is not None:
            return
        fields = {**state.record.fields, **changes}
        try:
            model = await self._find_or_create(state, fields, changes)
        except PermanentSinkError as error:
            # What comes after this batch is refused too, and not put into a model of its own.
            await self._store.save(state.run, state.record, **changes, creating=None)
            self.refuse(state, error)
            raise
        done = {"model": model, "arguments": None, "creating": None}
        await self._store.save(state.run, state.record, **{**changes, **done})
        changes.clear()
        logger.info("hub: run %s is model %s: %s", state.run.run, model, self.url(model))
        try:
            await self.beat(state)
        except (RetryableSinkError, PermanentSinkError) as error:
            logger.info("hub: run %s: %s", state.run.run, error)

    def refuse(self, state: RunState, error: PermanentSinkError) -> None:
        """HUB takes nothing for the run: not every one of its events has to ask."""
        state.refused = str(error)
        state.ask_again_at = self._clock() + _ASK_AGAIN_SECONDS

    async def beat(self, state: RunState) -> None:
        """Send the heartbeat of a run that has a model, and keep the agent id that returns.

        Raises:
            SinkError: HUB does not take it.
            MarksMovedError: Another worker has the run.
        """
        known = state.record.fields.get("agent")
        key = await self.key_of(state)
        agent = await self._client.heartbeat(key, str(state.model), known)
        if agent != known:
            await self._store.save(state.run, state.record, agent=agent)

    async def key_of(self, state: RunState, fields: Mapping[str, Any] | None = None) -> ApiKey:
        """The key for a run: that of its identifier, which only its first event holds, or ours.

        Raises:
            RetryableSinkError: There is none.
        """
        if state.key is not None:
            return state.key
        fields = state.record.fields if fields is None else fields
        if fields.get("identifier", {}).get("has_key"):
            named = _named_model(await self._store.event(*fields["start"]))
            if named is None:
                # Another key would be another account, where the model is not.
                raise RetryableSinkError(
                    "the key that the run brought is not known here: its first event, which holds "
                    "it, is not in the event log"
                )
            state.key = parse_identifier(named, self._web).key
        key = state.key or self._key
        if key is None:
            raise RetryableSinkError("there is no key for HUB: set HUB_API_KEY")
        return key

    def url(self, model: str) -> str:
        """Where a person looks at a model."""
        return f"{self._web}/models/{model}"

    def _read(self, state: RunState, named: object) -> dict[str, Any]:
        """An identifier as it may be kept."""
        try:
            identifier = parse_identifier(named, self._web)
        except PermanentSinkError as error:
            return {"error": str(error)}
        state.key = identifier.key
        if identifier.model is None:
            return {"file": identifier.file}
        return {"model": identifier.model, "has_key": identifier.key is not None}

    async def _find_or_create(
        self, state: RunState, fields: Mapping[str, Any], changes: dict[str, Any]
    ) -> str:
        identifier = fields.get("identifier", {})
        if "error" in identifier:
            raise PermanentSinkError(identifier["error"])
        key = await self.key_of(state, fields)
        if key.value not in self._known_keys:
            await self._client.authenticate(key)
            self._known_keys.add(key.value)
        if "model" in identifier:
            return await self._load(state.run, key, identifier["model"])
        arguments = fields.get("arguments", {})
        if state.record.fields.get("creating"):
            logger.warning(
                "hub: run %s: its model was being made when that broke off: HUB may have it twice",
                state.run.run,
            )
        # HUB has no key that makes this repeatable; at least it is known that it was begun.
        await self._store.save(state.run, state.record, **changes, creating=True)
        file = identifier.get("file") or _file_of(arguments.get("model"))
        return await self._client.create(key, create_body(arguments, file, state.run.run_name))

    async def _load(self, run: RunRef, key: ApiKey, model: str) -> str:
        found = await self._client.load(key, model)
        if found.get("status") == "trained":
            raise PermanentSinkError(
                f"model {model} is trained: HUB keeps it as it is; name another for run {run.run!r}"
            )
        if found.get("has_last_weights"):
            logger.info("hub: run %s resumes model %s", run.run, model)
        return model


def _named_model(event: Event | None) -> object | None:
    if event is None or not isinstance(event.data, RunStarted):
        return None
    return event.data.options.get("hub", {}).get("model")


def _file_of(value: object) -> str | None:
    return value if isinstance(value, str) and value.endswith(_FILES) else None
