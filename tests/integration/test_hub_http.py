"""The HTTP client of the hub sink against servers that do what they should not."""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from bus.errors import PermanentSinkError, RetryableSinkError, SinkError, TrainbusError
from subscribers.hub.answers import Place
from subscribers.hub.http import Body, HttpClient, Times
from subscribers.hub.keys import ApiKey
from tests.fixtures.feed import Feed
from tests.fixtures.hub import HubServer, begin, make_hub_sink, write

KEY = ApiKey("s3cr3t" * 7, "HUB_API_KEY", "x-api-key")
TIMES = Times(1.0, call_seconds=0.5, idle_seconds=0.5, answer_seconds=0.5, upload_seconds=5.0)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client_of(url: str, times: Times = TIMES) -> AsyncIterator[HttpClient]:
    client = HttpClient(Place("HUB", url, "ULTRALYTICS_HUB_API"), times)
    try:
        yield client
    finally:
        await client.close()


def body_of(size: int, chunk: int = 64 * 1024) -> Body:
    async def chunks() -> AsyncGenerator[bytes, None]:
        left = size
        while left > 0:
            yield bytes(min(chunk, left))
            left -= chunk

    return Body(size, "application/octet-stream", chunks)


async def test_a_key_is_sent_and_a_redirect_is_not_followed() -> None:
    seen: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        seen.append(f"elsewhere {request.headers.get('x-api-key')}")
        return web.json_response({})

    async with serving(elsewhere) as other:

        async def moved(request: web.Request) -> web.Response:
            seen.append(request.headers.get("x-api-key", ""))
            raise web.HTTPTemporaryRedirect(f"{other}/v1/x")

        async with serving(moved) as url, client_of(url) as client:
            with pytest.raises(RetryableSinkError, match="check ULTRALYTICS_HUB_API"):
                await client.call("asking", "POST", "/v1/x", KEY, {})
            with pytest.raises(RetryableSinkError, match="check ULTRALYTICS_HUB_API"):
                await client.upload("sending", "POST", "/v1/x", body_of(10), KEY)
    assert seen == [KEY.value, KEY.value]


async def test_no_cookie_and_no_key_of_one_answer_goes_with_the_next_request() -> None:
    seen: list[dict[str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        answer = web.json_response({})
        answer.set_cookie("session", "1")
        return answer

    async with serving(handle) as url, client_of(url) as client:
        await client.call("asking", "POST", "/v1/x", KEY)
        await client.upload("sending", "PUT", f"{url}/signed?sig=abc", body_of(10), None)
    assert "x-api-key" in seen[0]
    assert not {"x-api-key", "Cookie", "Authorization"} & set(seen[1])
    assert seen[1]["Content-Length"] == "10"


async def test_a_server_that_is_away_hangs_or_hangs_up_is_asked_again_later() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    async with client_of(f"http://127.0.0.1:{free}") as client:
        with pytest.raises(RetryableSinkError, match=r"asking: HUB at http://127.*Connect"):
            await client.call("asking", "GET", "/v1/x", KEY)

    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.json_response({})

    async with serving(hang) as url, client_of(url) as client:
        with pytest.raises(RetryableSinkError, match="no answer in time"):
            await client.call("asking", "GET", "/v1/x", KEY)
        with pytest.raises(RetryableSinkError, match="no answer in time"):
            await client.upload("sending", "POST", "/v1/x", body_of(10), KEY)

    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.json_response({})

    async with serving(hang_up) as url, client_of(url) as client:
        with pytest.raises(RetryableSinkError, match="asking: HUB at"):
            await client.call("asking", "POST", "/v1/x", KEY, {})


async def test_an_answer_that_never_ends_is_cut_off() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(1000):
            await answer.write(b"x" * 65536)
        return answer

    async with serving(endless) as url, client_of(url, Times(call_seconds=10)) as client:
        with pytest.raises(RetryableSinkError, match="no JSON object"):
            await client.call("asking", "GET", "/v1/x", KEY)


async def test_an_answer_that_is_no_http_is_asked_again_later() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-" + KEY.value.encode() + b"\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with client_of(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(RetryableSinkError) as error:
            await client.call("asking", "GET", "/v1/x", KEY)
    assert KEY.value not in str(error.value)
    server.close()


async def test_an_answer_that_comes_before_all_is_sent_is_heeded() -> None:
    async def refuse(request: web.Request) -> web.Response:
        await request.content.read(1000)
        return web.json_response({"message": "too large"}, status=413)

    async with serving(refuse) as url, client_of(url) as client:
        # Whether the answer or the closed connection is seen first is a race of the network.
        with pytest.raises((PermanentSinkError, RetryableSinkError)):
            await client.upload("sending", "POST", "/v1/x", body_of(50_000_000), KEY)


async def slow(request: web.Request) -> web.Response:
    """Takes 64 KiB every fiftieth of a second."""
    async for _ in request.content.iter_chunked(64 * 1024):
        await asyncio.sleep(0.02)
    return web.json_response({})


async def test_an_upload_that_moves_slowly_is_not_idle() -> None:
    # A sender is woken when a third of its system's buffer is free: a megabyte and more.
    times = Times(idle_seconds=1.0, upload_seconds=30)
    async with serving(slow) as url, client_of(url, times) as client:
        began = asyncio.get_running_loop().time()
        # Much more than the buffers between hold.
        await client.upload("sending", "POST", "/v1/x", body_of(12_000_000, 16 * 1024), KEY)
        assert asyncio.get_running_loop().time() - began > 1.2


async def test_an_upload_has_a_time_in_all() -> None:
    times = Times(idle_seconds=1.0, upload_seconds=1.2)
    async with serving(slow) as url, client_of(url, times) as client:
        with pytest.raises(RetryableSinkError, match="no answer in time"):
            await client.upload("sending", "POST", "/v1/x", body_of(50_000_000), KEY)


async def test_what_reading_the_body_raises_comes_through() -> None:
    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({})

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"x" * 100
        raise SinkError("the store burns")

    body = Body(1000, "text/plain", chunks)
    async with serving(take) as url, client_of(url) as client:
        with pytest.raises(SinkError, match="the store burns") as error:
            await client.upload("sending", "POST", "/v1/x", body, KEY)
        assert not isinstance(error.value, RetryableSinkError)


async def test_a_signed_address_is_in_no_message() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    async with client_of("http://127.0.0.1:1") as client:
        for signed in (f"http://127.0.0.1:{free}/put?sig=GEHEIM", "http://[bad?sig=GEHEIM"):
            with pytest.raises(RetryableSinkError) as error:
                await client.upload("sending", "PUT", signed, body_of(10), None)
            assert "GEHEIM" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("status", [200, 301, 400, 401, 404, 429, 500])
@pytest.mark.parametrize("how", ["echo", "hang up", "nonsense"])
async def test_a_key_is_in_no_error_trace_or_log(
    status: int, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def echo(request: web.Request) -> web.Response:
        if how == "hang up":
            assert request.transport is not None
            request.transport.abort()
        text = " ".join(f"{name}: {value}" for name, value in request.headers.items())
        if how == "nonsense":
            return web.Response(status=status, text=text)
        return web.json_response({"message": text}, status=status)

    errors: list[TrainbusError] = []
    async with serving(echo) as url, client_of(url) as client:
        for call in (
            client.call("asking", "GET", "/v1/x", KEY),
            client.upload("sending", "POST", "/v1/x", body_of(10), KEY),
        ):
            try:
                await call
            except TrainbusError as error:
                errors.append(error)
                logging.getLogger("test").error("%r", error, exc_info=error)
    for one in errors:
        seen = "".join(traceback.format_exception(one)) + repr(one) + str(vars(one))
        assert KEY.value not in seen
        assert KEY.value not in repr(one.__cause__) + repr(one.__context__)
    assert KEY.value not in caplog.text
    assert errors or status == 200


def read_all(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


async def test_the_key_of_a_worker_is_in_no_log_line_state_or_message(
    hub_server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    own = "w0rker" * 7
    hub_server.stand_in.keys = {own}
    sink = make_hub_sink(hub_server, tmp_path, key=own)
    feed = Feed("r1", "digits")
    await write(sink, feed, begin(feed))
    hub_server.stand_in.keys = {"other"}
    with pytest.raises(RetryableSinkError, match="refuses the key of HUB_API_KEY") as error:
        await write(sink, feed, [feed.metrics(["loss"], range(1))])
    assert not any(own.encode() in one for one in await asyncio.to_thread(read_all, tmp_path))
    assert own not in caplog.text + repr(error.value) + repr(vars(sink)) + repr(sink.state())
    await sink.close()
