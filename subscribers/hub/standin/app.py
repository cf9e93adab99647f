"""The routes of the stand-in."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web

from subscribers.hub.standin.checks import (
    RefusedError,
    check_heartbeat,
    check_metrics,
    check_model,
    check_upload,
)
from subscribers.hub.standin.faults import Fault, Faults
from subscribers.hub.standin.models import Models

__all__ = ["Received", "StandIn"]

_MAX_JSON_BYTES = 32 * 1024 * 1024
_MAX_FIELD_BYTES = 1024
_CHUNK_BYTES = 256 * 1024

_Answer = dict[str, Any]
_Handler = Callable[[web.Request, "Received"], Awaitable[_Answer]]


@dataclass(slots=True)
class Received:
    """One request, as it came.

    Attributes:
        route: ``auth``, ``create``, ``load``, ``metrics``, ``upload`` or ``heartbeat``.
        body: JSON, or what an upload said of its file; None when there was none.
        status: What was answered; 0 as long as nothing is.
    """

    route: str
    method: str
    path: str
    headers: dict[str, str]
    body: Any = None
    status: int = 0


@dataclass
class StandIn:
    """HUB v1.

    Attributes:
        models: What it holds.
        faults: What is to go wrong.
        keys: Keys it knows; any key will do when empty.
        is_recording: Whether requests are kept.
        received: Those that came, the last ones last.
    """

    models: Models = field(default_factory=Models)
    faults: Faults = field(default_factory=Faults)
    keys: set[str] = field(default_factory=set)
    is_recording: bool = True
    received: list[Received] = field(default_factory=list)

    def app(self) -> web.Application:
        """The web application."""
        app = web.Application(client_max_size=_MAX_JSON_BYTES)
        model = "/v1/models/{model}"
        app.add_routes(
            [
                web.get("/", self._overview),
                web.post("/v1/auth", self._route("auth", self._auth)),
                web.post("/v1/models", self._route("create", self._create)),
                web.get(model, self._route("load", self._load)),
                web.post(model, self._route("metrics", self._metrics)),
                web.post(f"{model}/upload", self._route("upload", self._upload)),
                web.post(
                    "/v1/agent/heartbeat/models/{model}", self._route("heartbeat", self._beat)
                ),
            ]
        )
        return app

    def _route(
        self, name: str, handler: _Handler
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            received = Received(name, request.method, request.path, dict(request.headers))
            if self.is_recording:
                self.received.append(received)
            fault = self.faults.of(name, request.match_info.get("model"))
            if fault is not None:
                answer = await _instead(fault, request)
                if answer is not None:
                    received.status = answer.status
                    return answer
            try:
                self._check_key(request)
                told = web.json_response(await handler(request, received))
            except RefusedError as error:
                message = {"success": False, "message": str(error)}
                told = web.json_response(message, status=error.status, headers=error.headers)
            received.status = told.status
            if fault is not None and fault.is_answer_lost:
                _abort(request)
            return told

        return handle

    def _check_key(self, request: web.Request) -> None:
        key = request.headers.get("x-api-key")
        if not key or (self.keys and key not in self.keys):
            raise RefusedError(401, "Unauthorized")

    async def _overview(self, request: web.Request) -> web.Response:
        """What a person looks at first."""
        found = [
            {
                **one.told(),
                "metrics": one.metrics,
                "uploads": one.uploads,
                "heartbeats": one.heartbeats,
                "too_soon": one.too_soon,
            }
            for one in self.models.all.values()
        ]
        return web.json_response({"models": found})

    async def _auth(self, request: web.Request, received: Received) -> _Answer:
        return {"success": True}

    async def _create(self, request: web.Request, received: Received) -> _Answer:
        received.body = await _json(request)
        model = self.models.add(check_model(received.body))
        await self.models.keep(model)
        return {"success": True, "data": {"id": model.id}}

    async def _load(self, request: web.Request, received: Received) -> _Answer:
        return {"success": True, "data": self.models.get(request.match_info["model"]).told()}

    async def _metrics(self, request: web.Request, received: Received) -> _Answer:
        model = self.models.get(request.match_info["model"])
        received.body = await _json(request)
        epochs = check_metrics(received.body)
        self.models.count(model, "metrics")
        model.metrics |= epochs
        model.status = "training" if model.status == "new" else model.status
        await self.models.keep(model)
        return {"success": True}

    async def _upload(self, request: web.Request, received: Received) -> _Answer:
        model = self.models.get(request.match_info["model"])
        told = received.body = await _read_form(request)
        if told["type"] == "epoch":
            self.models.count(model, "upload")
        else:
            model.status = "trained"
        model.uploads.append(told)
        await self.models.keep(model)
        return {"success": True}

    async def _beat(self, request: web.Request, received: Received) -> _Answer:
        model = self.models.get(request.match_info["model"])
        received.body = await _json(request)
        agent = check_heartbeat(received.body)
        self.models.count(model, "heartbeat")
        if agent not in model.agents:
            agent = f"agent-{len(model.agents) + 1}"
            model.agents.append(agent)
        model.heartbeats += 1
        await self.models.keep(model)
        return {"success": True, "data": {"agentId": agent}}


async def _instead(fault: Fault, request: web.Request) -> web.Response | None:
    """What happens instead of the request; None to go on with it."""
    if fault.is_hanging:
        await fault.lifted.wait()
        raise web.HTTPServiceUnavailable
    if fault.drop_after_bytes is not None:
        left = fault.drop_after_bytes
        while left > 0 and (part := await request.content.read(left)):
            left -= len(part)
        _abort(request)
    if fault.status is None:
        return None
    if isinstance(fault.body, bytes):
        return web.Response(status=fault.status, headers=fault.headers, body=fault.body)
    return web.json_response(
        fault.body or {"message": "a fault"}, status=fault.status, headers=fault.headers
    )


def _abort(request: web.Request) -> None:
    """Close the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    raise asyncio.CancelledError


async def _json(request: web.Request) -> Any:
    if request.content_type != "application/json":
        raise RefusedError(415, f"content type {request.content_type} is not application/json")
    try:
        return json.loads(await request.text())
    except ValueError as error:
        raise RefusedError(400, f"no JSON: {error}") from error


async def _read_form(request: web.Request) -> dict[str, Any]:
    """The fields of an upload, with size and sha256 of its file."""
    if request.content_type != "multipart/form-data":
        raise RefusedError(415, f"content type {request.content_type} is not multipart/form-data")
    fields: dict[str, str] = {}
    file, name, size, digest = "", "", 0, hashlib.sha256()
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader):
            raise RefusedError(400, "a part holds parts")
        if part.filename is None:
            fields[part.name or ""] = (await part.read_chunk(_MAX_FIELD_BYTES)).decode()
            while not part.at_eof():
                await part.read_chunk(_MAX_FIELD_BYTES)
            continue
        file, name = part.name or "", part.filename
        while chunk := await part.read_chunk(_CHUNK_BYTES):
            size += len(chunk)
            digest.update(chunk)
    return {**check_upload(fields, file, name), "size": size, "sha256": digest.hexdigest()}
