"""The HTTP client of the hub sink: time limits, and errors as the worker understands them.

A request of the API has a time in all. An upload may take long, and ends when nothing moves: when
its next bytes are not taken for the idle time, or no answer comes once all are. Nothing is retried
here; that is the worker's. Redirects are not followed, cookies are not kept, and an error of
aiohttp is never chained to ours: its repr shows the headers of the request, and the key in them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from bus._version import __version__
from bus.errors import RetryableSinkError, TrainbusError
from subscribers.hub.answers import Answer, Place, one_line
from subscribers.hub.keys import ApiKey

__all__ = ["Body", "HttpClient", "Times"]

_CONNECTIONS = 64
"""At a time; more requests than that wait for one."""

_MAX_ANSWER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Times:
    """Time limits of a client.

    Attributes:
        connect_seconds: For a new connection.
        call_seconds: For a request of the API, in all.
        idle_seconds: How long an upload may stand still.
        answer_seconds: How long its answer may take once all is handed to the system, whose buffers
            hold megabytes; and the service has a large file to put somewhere.
        upload_seconds: For an upload, in all.
    """

    connect_seconds: float = 10.0
    call_seconds: float = 30.0
    idle_seconds: float = 60.0
    answer_seconds: float = 300.0
    upload_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes to upload, read while they are sent.

    Attributes:
        size: How many there are.
        content_type: What they are.
        chunks: Begins to read them; what it raises ends the upload.
    """

    size: int
    content_type: str
    chunks: Callable[[], AsyncGenerator[bytes, None]]


class HttpClient:
    """One service over HTTP. Made without an event loop, used on one.

    Args:
        place: Where it is.
        times: Time limits.
        clock: Unix seconds.
    """

    def __init__(
        self, place: Place, times: Times | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.place = place
        self._times = times or Times()
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self,
        doing: str,
        method: str,
        path: str,
        key: ApiKey,
        json: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make one request of the API.

        Args:
            doing: What for, for messages: "loading model X".
            method: ``GET``, ``POST`` and so on.
            path: Below the base URL, with the leading slash.
            key: Sent in its header.
            json: The body.

        Returns:
            The JSON object of the answer.

        Raises:
            RetryableSinkError: No answer, or one that may be another later.
            PermanentSinkError: The service refuses it.
        """
        url = self.place.address + path
        limits = aiohttp.ClientTimeout(
            total=self._times.call_seconds, sock_connect=self._times.connect_seconds
        )
        try:
            answer = await self._ask(method, url, limits, key.headers(), json=json)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._transport_error(doing, error, one_line(str(error)), key) from None
        return answer.result(doing, self.place, key, self._clock())

    async def upload(
        self,
        doing: str,
        method: str,
        url: str,
        body: Body,
        key: ApiKey | None,
        headers: dict[str, str] | None = None,
        place: Place | None = None,
    ) -> Answer:
        """Send a large body.

        Args:
            doing: What is being done, for messages.
            method: ``POST`` or ``PUT``.
            url: Below the base URL with a leading slash, or a whole URL. That is sent as it is, and
                not shown, nor what is answered there: it may carry a signature.
            body: What to send.
            key: Sent in its header; None to send none, as a signed URL wants.
            headers: More headers.
            place: Who answers at a whole URL, for messages.

        Returns:
            The answer; its status is a success.

        Raises:
            RetryableSinkError: No answer, or one that may be another later.
            PermanentSinkError: It is refused.
            TrainbusError: What reading the body raised.
        """
        is_ours = url.startswith("/")
        place = place or self.place
        sent = {
            **(headers or {}),
            **(key.headers() if key else {}),
            "Content-Type": body.content_type,
            # With its length known the body is not sent in chunks, which some servers refuse.
            "Content-Length": str(body.size),
        }
        limits = aiohttp.ClientTimeout(total=None, sock_connect=self._times.connect_seconds)
        failures: list[TrainbusError] = []
        watch = _Watch(self._times)
        data = _watched(body, watch, failures)
        try:
            # A signature is of the URL as it is written: %2F and / are not the same there.
            target = self.place.address + url if is_ours else URL(url, encoded=True)
            async with watch:
                answer = await self._ask(method, target, limits, sent, data=data)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if failures:
                raise failures[0] from None
            # What aiohttp says may quote the URL.
            said = one_line(str(error)) if is_ours else ""
            raise self._transport_error(doing, error, said, key, place) from None
        finally:
            with suppress(RuntimeError):  # aiohttp's writer is about to end in it
                await data.aclose()
        shown = answer if is_ours else replace(answer, raw=b"")
        shown.check(doing, place, key, self._clock())
        return answer

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(
        self,
        method: str,
        url: str | URL,
        limits: aiohttp.ClientTimeout,
        headers: dict[str, str],
        **body: Any,
    ) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"trainbus/{__version__}", "Accept-Encoding": "identity"},
            )
        async with self._session.request(
            method,
            url,
            headers=headers,
            timeout=limits,
            allow_redirects=False,
            proxy=_proxy_of(str(url)),
            **body,
        ) as response:
            raw = await _read_some(response.content)
            return Answer(response.status, response.headers, raw)

    def _transport_error(
        self,
        doing: str,
        error: Exception,
        said: str,
        key: ApiKey | None,
        place: Place | None = None,
    ) -> RetryableSinkError:
        place = place or self.place
        what = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        text = f"{doing}: {place.service} at {place.address}: {what}"
        text += f": {said}" if said else ""
        return RetryableSinkError(key.hide(text) if key else text)


class _Watch:
    """Ends what stands still: a timeout that every sign of life moves on."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._now = asyncio.get_running_loop().time
        self._end = self._now() + times.upload_seconds
        self._timeout = asyncio.timeout(min(times.idle_seconds, times.upload_seconds))
        self._is_on = False

    async def __aenter__(self) -> _Watch:
        await self._timeout.__aenter__()
        self._is_on = True
        return self

    async def __aexit__(self, *details: Any) -> None:
        self._is_on = False
        await self._timeout.__aexit__(*details)

    def moved(self, is_end: bool = False) -> None:
        """Something moved; ``is_end`` when nothing is left but the answer."""
        if self._is_on and not self._timeout.expired():
            patience = self._times.answer_seconds if is_end else self._times.idle_seconds
            self._timeout.reschedule(min(self._now() + patience, self._end))


async def _watched(
    body: Body, watch: _Watch, failures: list[TrainbusError]
) -> AsyncGenerator[bytes, None]:
    """The chunks of a body; aiohttp would hide what reading them raises in an error of its own."""
    try:
        async with aclosing(body.chunks()) as chunks:
            async for chunk in chunks:
                watch.moved()
                yield chunk
        watch.moved(is_end=True)
    except TrainbusError as error:
        failures.append(error)
        raise


async def _read_some(content: aiohttp.StreamReader) -> bytes:
    parts: list[bytes] = []
    left = _MAX_ANSWER_BYTES
    while left > 0 and (part := await content.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _proxy_of(url: str) -> str | None:
    """The proxy that ``HTTPS_PROXY`` and its like name; aiohttp's own way reads netrc files too."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return None if proxy_bypass(host) else getproxies().get(parts.scheme)
