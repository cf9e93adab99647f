"""A session that was imported is gone on with by the live sink, as if it had written it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from bus.kinds import Console
from subscribers.clearml.offline.layout import Layout
from subscribers.clearml.offline.sink import OfflineSink
from tests.fixtures.clearml.sessions import import_sessions, write_run
from tests.fixtures.feed import Feed, marks_of
from tests.fixtures.processes import Processes
from tests.integration.clearml_feed import QUIET, make_live

if TYPE_CHECKING:
    from tests.fixtures.clearml.server import ClearmlServer

pytestmark = QUIET


async def test_an_imported_run_goes_on_live_without_a_double(
    clearml_server: ClearmlServer, processes: Processes, tmp_path: Path
) -> None:
    feed = Feed("run 1", "project")
    first = [
        feed.started(tags={"stage": "first"}),
        feed.metrics(["loss"], range(3)),
        feed.event("console", Console(["epoch 1"])),
    ]
    offline = OfflineSink(tmp_path / "sessions")
    await write_run(offline, feed, first)
    await offline.close()
    folder = Layout(tmp_path / "sessions", feed.ref).folder
    (task,) = await asyncio.to_thread(import_sessions, processes, clearml_server, tmp_path, folder)
    live = make_live(clearml_server, tmp_path)
    assert await live.open_run(feed.ref) == marks_of(first)
    late = [feed.metrics(["loss"], range(3, 5)), feed.finished("failed", error="out of memory")]
    await write_run(live, feed, [*first, *late])
    contents = await live.contents(feed.ref)
    await live.close()
    assert contents is not None
    assert (contents.marks, contents.points) == (marks_of(first, late), 5)
    assert [one["id"] for one in clearml_server.tasks()] == [task]
    assert clearml_server.status(task) == "failed"
    assert clearml_server.console(task) == ["epoch 1"]
