"""The MLflow sink while its server is down, silent, or refuses who asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from bus.errors import RetryableSinkError
from tests.fixtures.mlflow import MlflowServer
from tests.integration.mlflow_feed import Feed, history, make_sink, marks_of, run_in


async def test_a_server_that_dies_and_returns_has_every_point_once(
    killable_mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server = killable_mlflow_server
    sink = make_sink(server.uri, tmp_path)
    feed = Feed("outage", "outage")
    first = [feed.started(), feed.metrics(["loss"], range(1500))]
    second = [feed.metrics(["loss"], range(1500, 3000)), feed.finished()]
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, first, marks_of(first))

    server.pause()
    with pytest.raises(RetryableSinkError, match=r"timeout|timed out"):
        await sink.write(feed.ref, second, marks_of(first, second))
    server.kill()
    with pytest.raises(RetryableSinkError, match="Connection"):
        await sink.write(feed.ref, second, marks_of(first, second))
    with pytest.raises(RetryableSinkError):
        await sink.contents(feed.ref)

    server.start()
    await sink.write(feed.ref, second, marks_of(first, second))
    contents = await sink.contents(feed.ref)
    await sink.close()
    client = MlflowClient(server.uri, server.uri)
    run = await run_in(client, feed.ref)
    assert [step for _, step, _ in history(client, run, "loss")] == list(range(3000))
    assert run.info.status == "FINISHED"
    assert contents is not None
    assert (contents.points, contents.marks) == (3000, marks_of(first, second))


class _Answer(BaseHTTPRequestHandler):
    """Answers everything with one status."""

    status = 500
    body = b"no"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST = do_PUT = do_PATCH = _answer  # noqa: N815  # http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
        pass


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    status, body = request.param
    handler = type("Handler", (_Answer,), {"status": status, "body": body})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://user:secret@127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answering", "message"),
    [
        ((401, b"You are not authenticated"), "MLFLOW_TRACKING_USERNAME"),
        ((403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}'), "MLFLOW_TRACKING_TOKEN"),
        ((404, b"<html>nothing here</html>"), "MLFLOW_TRACKING_URI"),
        ((404, b'{"detail": "Not Found"}'), "Not Found"),
        ((408, b""), "408"),
        ((429, b"slow down"), "429"),
        ((500, b"oops"), "500"),
        ((502, b"bad gateway"), "502"),
        ((503, b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "locked"}'), "503"),
        ((200, b"<html>a proxy's login page</html>"), "JSON"),
    ],
    indirect=["answering"],
)
async def test_what_a_person_or_time_can_mend_is_worth_another_try(
    answering: str, message: str, tmp_path: Path
) -> None:
    sink = make_sink(answering, tmp_path)
    with pytest.raises(RetryableSinkError, match=message) as caught:
        await sink.open_run(Feed("r", "p").ref)
    assert "secret" not in str(caught.value)
    await sink.close()
