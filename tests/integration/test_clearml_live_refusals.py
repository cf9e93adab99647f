"""The live ClearML sink and answers that refuse an event, or make no sense."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bus.errors import PermanentSinkError, RetryableSinkError, SinkError
from bus.events import encode
from bus.feed import Item
from bus.sinks import Marks, RunRef
from subscribers.worker.writer import BatchWriter, WriterStats
from tests.fixtures.clearml import app
from tests.fixtures.feed import Feed, marks_of
from tests.integration.clearml_feed import QUIET, make_live, task_of

if TYPE_CHECKING:
    from bus.events import Event
    from subscribers.clearml.live import LiveSink
    from tests.fixtures.clearml.server import ClearmlServer

pytestmark = QUIET


@pytest.fixture
async def sink(clearml_server: ClearmlServer, tmp_path: Path) -> AsyncIterator[LiveSink]:
    sink = make_live(clearml_server, tmp_path, TRAINBUS_CLEARML_TIMEOUT="1")
    yield sink
    await sink.close()


@pytest.mark.parametrize(
    "answer",
    [{}, {"tasks": None}, {"tasks": {}}, {"tasks": [None]}, {"tasks": [{"id": 3}]}, {"x": 1}],
)
async def test_an_answer_that_makes_no_sense_creates_nothing(
    sink: LiveSink,
    clearml_server: ClearmlServer,
    answer: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(app.ENDPOINTS, "tasks.get_all", lambda store, body: answer)
    feed = Feed("nonsense", "digits")
    with pytest.raises(RetryableSinkError, match="holds no tasks"):
        await sink.open_run(feed.ref)
    with pytest.raises(RetryableSinkError, match="holds no tasks"):
        await sink.write(feed.ref, [feed.started()], Marks())
    assert clearml_server.tasks() == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>a proxy's login page</html>",
        b"[]",
        b"null",
        b'{"data": {}}',
        b'{"meta": {"result_code": 200}, "data": {"token": "no token"}}',
        b'{"meta": {}, "data": {"token": 3}}',
    ],
)
@pytest.mark.parametrize("status", [200, 302, 404, 500])
async def test_whatever_answers_in_the_place_of_clearml_is_for_a_person_to_mend(
    clearml_server: ClearmlServer, tmp_path: Path, body: bytes, status: int
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "/login")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        sink = make_live(clearml_server, tmp_path, CLEARML_API_HOST=url)
        for _ in range(2):
            with pytest.raises(RetryableSinkError):
                await sink.open_run(Feed("r", "digits").ref)
        await sink.close()
        server.shutdown()
        thread.join()


@dataclass
class Letters:
    """Keeps dead letters in a list."""

    kept: list[tuple[Item, str]] = field(default_factory=list)

    async def keep(self, run: RunRef, item: Item, error: Exception, attempts: int) -> None:
        self.kept.append((item, str(error)))

    async def resolve(self, run: RunRef, item: Item, attempts: int) -> None:
        raise AssertionError

    async def wanted(self, is_ours: object, is_here: object) -> list[object]:
        return []


def items_of(events: list[Event]) -> list[Item]:
    return [Item(event.source, event.id, event.kind, encode(event), None, 0.0) for event in events]


async def test_of_a_batch_with_a_poisonous_event_only_that_one_becomes_a_dead_letter(
    sink: LiveSink, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    feed = Feed("poison", "digits")
    events = [feed.started(), *(feed.metrics([f"m{n}/v"], range(n, n + 30)) for n in range(20))]
    bad = events[7]
    clearml_server.faults.refuse_events(lambda event: event.get("metric") == "m6")
    letters = Letters()

    async def no_wait(seconds: float) -> None:
        pass

    writer = BatchWriter(sink, feed.ref, letters, WriterStats(), no_wait)  # type: ignore[arg-type]  # a list instead of a log
    marks = await writer.open()
    await writer.write(items_of(events), marks)
    assert [item.number for item, _ in letters.kept] == [bad.id]
    assert "indexing" in letters.kept[0][1]
    good = [event for event in events if event is not bad]
    assert marks == marks_of(good, dead=[bad])
    scalars = clearml_server.scalars(task_of(clearml_server, feed.ref)["id"])
    assert len(scalars) == 19
    assert all(len(values) == 30 for values in scalars.values())
    other = make_live(clearml_server, tmp_path)
    assert await other.open_run(feed.ref) == marks
    await other.close()


async def test_a_part_that_is_refused_is_never_counted_as_written(
    sink: LiveSink, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    feed = Feed("part", "digits")
    events = [feed.metrics(["good", "bad"], range(10))]
    clearml_server.faults.refuse_events(
        lambda event: event.get("variant") == "bad" and event.get("iter") == 4
    )
    with pytest.raises(PermanentSinkError, match=r"took 19 of 20.*indexing"):
        await sink.write(feed.ref, events, marks_of(events))
    other = make_live(clearml_server, tmp_path)
    assert await other.open_run(feed.ref) == Marks()
    await other.close()


async def test_a_database_error_is_tried_a_bounded_number_of_times(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    feed = Feed("data error", "digits")
    clearml_server.faults.answer("events.add_batch", 500, 1, subcode=100)
    with pytest.raises(SinkError) as caught:
        await sink.write(feed.ref, [feed.metrics(["loss"], range(2))], Marks())
    assert type(caught.value) is SinkError
