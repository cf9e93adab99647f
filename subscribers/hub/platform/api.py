"""The requests of Ultralytics Platform.

https://docs.ultralytics.com/platform/api: ``POST /api/webhooks/training/metrics`` takes every event
of a training, ``POST /api/webhooks/models/upload`` says where the bytes of a checkpoint are to be
put. That place is a storage of others: it gets no key of ours, and its URL, which is signed, is in
no message.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from bus.errors import RetryableSinkError, SinkError
from bus.kinds import Blob
from subscribers.hub.answers import Place, RefusedError
from subscribers.hub.blobs import check_is_file, stream
from subscribers.hub.http import Body, HttpClient
from subscribers.hub.keys import ApiKey
from subscribers.hub.platform.held import Staged
from subscribers.hub.platform.quota import Quota
from subscribers.hub.progress import Uploads

__all__ = ["ADDRESS_VARIABLE", "Identity", "PlatformApi"]

ADDRESS_VARIABLE = "ULTRALYTICS_PLATFORM_URL"

_EVENTS = "/api/webhooks/training/metrics"
_UPLOADS = "/api/webhooks/models/upload"
_BYTES = "application/octet-stream"

_CONFLICT = 409
"""Platform's own client tries again after it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which run a request is about.

    Attributes:
        run: Its id on the bus, for messages.
        project: As Platform names it.
        name: Likewise.
        model_id: Empty until Platform has given one.
        run_id: Likewise None.
    """

    run: str
    project: str
    name: str
    model_id: str = ""
    run_id: int | str | None = None

    def fields(self) -> dict[str, Any]:
        """The fields of a request that say so."""
        found: dict[str, Any] = {"project": self.project, "name": self.name}
        return {**found, "modelId": self.model_id} if self.model_id else found


class PlatformApi:
    """Platform, or what speaks like it.

    Args:
        http: Knows where it is.
        key: Sent with every request but uploads.
        quota: Asked before each of those.
        uploads: Where uploads are shown.
    """

    def __init__(self, http: HttpClient, key: ApiKey, quota: Quota, uploads: Uploads) -> None:
        self._http = http
        self._key = key
        self._quota = quota
        self._uploads = uploads

    async def send(self, identity: Identity, event: str, data: dict[str, Any]) -> dict[str, Any]:
        """Send one event of a training; returns the answer.

        Raises:
            RetryableSinkError: No answer, or the limit is reached.
            RefusedError: Platform does not want it.
            SinkError: It conflicts with something else under way.
        """
        doing = f"sending {event} of run {identity.run!r}"
        return await self._ask(doing, _EVENTS, {"event": event, **identity.fields(), "data": data})

    async def store(self, identity: Identity, key: str, dataref: str, blob: Blob) -> Staged:
        """Upload a checkpoint, in constant memory; Platform does not know of it yet.

        Args:
            identity: Whose it is.
            key: Of the request that will tell.
            dataref: Where the bytes are.
            blob: What they are.

        Raises:
            RetryableSinkError: No answer, or the limit is reached.
            PermanentSinkError: The blob is gone, or is a folder; or Platform does not want it.
            SinkError: The storage does not want it: a signature runs out, so it is tried again a
                bounded number of times.
        """
        check_is_file(blob, "Platform")
        # Before anything is asked for: a blob that is gone costs no request.
        async with aclosing(stream(dataref, blob)) as chunks:
            await anext(chunks, None)
        path, upload_path = await self._store(identity, dataref, blob)
        return Staged(key, path, upload_path, blob.size)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def _ask(self, doing: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        await self._quota.take()
        try:
            return await self._http.call(doing, "POST", path, self._key, body)
        except RefusedError as error:
            if error.status == _CONFLICT:
                raise SinkError(str(error)) from None
            raise

    async def _store(self, identity: Identity, dataref: str, blob: Blob) -> tuple[str, str | None]:
        doing = f"uploading {blob.name} of run {identity.run!r}"
        asked = {"filename": blob.name, **identity.fields()}
        if identity.run_id is not None:
            asked["runId"] = identity.run_id
        answer = await self._ask(doing, _UPLOADS, asked)
        url, path, upload_path = (answer.get(k) for k in ("uploadUrl", "gcsPath", "uploadPath"))
        if not isinstance(url, str) or not isinstance(path, str):
            raise RetryableSinkError(f"{doing}: the answer names no place to upload to")
        storage = _storage_of(url, doing)
        with self._uploads.begin(identity.run, blob.name, blob.size) as shown:

            async def counted() -> AsyncGenerator[bytes, None]:
                async with aclosing(stream(dataref, blob)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                        shown.add(len(chunk))

            body = Body(blob.size, _BYTES, counted)
            try:
                await self._http.upload(doing, "PUT", url, body, key=None, place=storage)
            except RefusedError as error:
                raise SinkError(str(error)) from None
        return path, upload_path if isinstance(upload_path, str) else None


def _storage_of(url: str, doing: str) -> Place:
    """Who is to get the bytes: over TLS, or on this machine.

    Raises:
        SinkError: The URL is none that bytes may be sent to.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if not host or not is_plain or parts.username is not None:
        raise SinkError(f"{doing}: Platform names a place to upload to that is no URL")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_this_machine(host)):
        raise SinkError(f"{doing}: Platform names a place to upload to that is not https")
    address = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
    return Place("Platform's storage", address, ADDRESS_VARIABLE)


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
