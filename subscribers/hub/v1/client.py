"""The calls of HUB v1."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from bus.errors import PermanentSinkError, RetryableSinkError
from bus.kinds import Blob
from subscribers.hub.blobs import stream
from subscribers.hub.http import Body, HttpClient
from subscribers.hub.keys import ApiKey
from subscribers.hub.progress import Upload
from subscribers.hub.v1.requests import Form, Values, heartbeat_body, metrics_body

__all__ = ["HubClient", "new_boundary"]


class HubClient:
    """HUB over HTTP; see :class:`subscribers.hub.http.HttpClient` for the errors."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def authenticate(self, key: ApiKey) -> None:
        """Ask whether a key is known.

        Raises:
            RetryableSinkError: It is not.
        """
        answer = await self._http.call("logging in", "POST", "/v1/auth", key)
        if answer.get("success") is not True:
            raise RetryableSinkError(f"HUB refuses {key}: set {key.source}")

    async def create(self, key: ApiKey, body: dict[str, Any]) -> str:
        """Make a model and return its id."""
        answer = await self._http.call("creating a model", "POST", "/v1/models", key, body)
        model = _data(answer, "creating a model").get("id")
        if not isinstance(model, str) or not model:
            raise PermanentSinkError("creating a model: the answer of HUB names no id")
        return model

    async def load(self, key: ApiKey, model: str) -> dict[str, Any]:
        """What HUB says about a model."""
        doing = f"loading model {model}"
        return _data(await self._http.call(doing, "GET", f"/v1/models/{model}", key), doing)

    async def send_metrics(self, key: ApiKey, model: str, epochs: Mapping[int, Values]) -> None:
        """Set the metrics of some epochs."""
        doing = f"sending metrics of model {model}"
        body = metrics_body(epochs)
        await self._http.call(doing, "POST", f"/v1/models/{model}", key, body)

    async def heartbeat(self, key: ApiKey, model: str, agent_id: str | None) -> str | None:
        """Tell that a model is being trained; returns the id to use from now on."""
        doing = f"keeping model {model} alive"
        path = f"/v1/agent/heartbeat/models/{model}"
        answer = await self._http.call(doing, "POST", path, key, heartbeat_body(agent_id))
        new = _data(answer, doing).get("agentId")
        return new if isinstance(new, str) and new else agent_id

    async def upload(
        self, key: ApiKey, model: str, form: Form, dataref: str, blob: Blob, progress: Upload
    ) -> None:
        """Upload weights from the artifact store."""

        async def chunks() -> AsyncGenerator[bytes, None]:
            yield form.head
            async with aclosing(stream(dataref, blob)) as parts:
                async for part in parts:
                    yield part
                    progress.add(len(part))
            yield form.tail

        size = len(form.head) + blob.size + len(form.tail)
        body = Body(size, form.content_type, chunks)
        doing = f"uploading {form.file} of model {model}"
        await self._http.upload(doing, "POST", f"/v1/models/{model}/upload", body, key)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()


def new_boundary() -> str:
    """A boundary as urllib3 makes them."""
    return secrets.token_hex(16)


def _data(answer: dict[str, Any], doing: str) -> dict[str, Any]:
    data = answer.get("data")
    if not isinstance(data, dict):
        raise PermanentSinkError(f"{doing}: the answer of HUB holds no data")
    return data
