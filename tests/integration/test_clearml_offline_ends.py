"""How runs end in sessions, and what importing them does with it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from subscribers.clearml.offline.layout import Layout
from subscribers.clearml.offline.sink import OfflineSink
from tests.fixtures.clearml.sessions import import_sessions, whole_run, write_run
from tests.fixtures.feed import Feed
from tests.fixtures.processes import Processes, until

if TYPE_CHECKING:
    from tests.fixtures.clearml.server import ClearmlServer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
async def sink(root: Path) -> AsyncIterator[OfflineSink]:
    sink = OfflineSink(root)
    yield sink
    await sink.close()


@pytest.fixture
def feed() -> Feed:
    return Feed("run 1", "project")


def task_of(layout: Layout) -> dict[str, Any]:
    content = json.loads((layout.folder / "task.json").read_text("ascii"))
    assert isinstance(content, dict)
    return content


def unfinished(root: Path) -> list[Path]:
    return list(root.rglob("*~part"))


@pytest.mark.parametrize(("status", "called"), [("failed", "failed"), ("killed", "stopped")])
async def test_an_end_that_was_not_well_is_in_tags_and_properties(
    sink: OfflineSink,
    feed: Feed,
    root: Path,
    clearml_server: ClearmlServer,
    processes: Processes,
    tmp_path: Path,
    status: str,
    called: str,
) -> None:
    await write_run(sink, feed, await asyncio.to_thread(whole_run, feed, tmp_path, status))
    layout = Layout(root, feed.ref)
    assert task_of(layout)["status"] == called
    assert task_of(layout)["status_reason"] == "out of memory"
    (task,) = await asyncio.to_thread(
        import_sessions, processes, clearml_server, tmp_path, layout.archive
    )
    # The importer says so of every task.
    assert clearml_server.status(task) == "completed"
    assert status in clearml_server.task(task)["tags"]
    properties = clearml_server.hyperparams(task)["properties"]
    assert properties["trainbus.status"] == status
    assert properties["trainbus.error"] == "out of memory"


async def test_two_runs_written_in_turns_do_not_mix(
    sink: OfflineSink,
    root: Path,
    clearml_server: ClearmlServer,
    processes: Processes,
    tmp_path: Path,
) -> None:
    feeds = [Feed(f"run {number}", "project") for number in range(2)]

    async def write(number: int, feed: Feed) -> None:
        keys = [f"train/loss{number}"]
        events = [feed.started(), *(feed.metrics(keys, range(n, n + 1)) for n in range(20))]
        await write_run(sink, feed, [*events, feed.finished()], size=1)

    await asyncio.gather(*(write(number, feed) for number, feed in enumerate(feeds)))
    archives = [Layout(root, feed.ref).archive for feed in feeds]
    tasks = await asyncio.to_thread(import_sessions, processes, clearml_server, tmp_path, *archives)
    for number, task in enumerate(tasks):
        expected = {step: step + 0.5 for step in range(20)}
        assert clearml_server.scalars(task) == {("train", f"loss{number}"): expected}


async def test_a_run_under_way_can_be_imported_from_its_folder(
    sink: OfflineSink,
    feed: Feed,
    root: Path,
    clearml_server: ClearmlServer,
    processes: Processes,
    tmp_path: Path,
) -> None:
    await write_run(sink, feed, [feed.started(), feed.metrics(["loss"], range(3))])
    layout = Layout(root, feed.ref)
    assert not layout.archive.exists()
    assert task_of(layout)["status"] == "in_progress"
    (task,) = await asyncio.to_thread(
        import_sessions, processes, clearml_server, tmp_path, layout.folder
    )
    assert len(clearml_server.scalars(task)["loss", "loss"]) == 3


async def test_importing_twice_makes_two_tasks(
    sink: OfflineSink,
    feed: Feed,
    root: Path,
    clearml_server: ClearmlServer,
    processes: Processes,
    tmp_path: Path,
) -> None:
    await write_run(sink, feed, [feed.started(), feed.finished()])
    archive = Layout(root, feed.ref).archive
    tasks = await asyncio.to_thread(
        import_sessions, processes, clearml_server, tmp_path, archive, archive
    )
    assert len(set(tasks)) == 2


async def test_a_late_event_makes_the_zip_anew(
    sink: OfflineSink, feed: Feed, root: Path, tmp_path: Path
) -> None:
    events = [feed.started(), feed.metrics(["loss"], range(3)), feed.finished()]
    late = feed.metrics(["loss"], range(3, 5))
    archive = Layout(root, feed.ref).archive
    await write_run(sink, feed, events)
    before = archive.stat().st_size
    await write_run(sink, feed, [*events, late])
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    lines = (tmp_path / "unpacked" / "metrics.jsonl").read_text("ascii").splitlines()
    assert sum(len(json.loads(line)) for line in lines) == 5
    assert archive.stat().st_size != before
    assert unfinished(root) == []


async def test_a_run_ends_with_its_last_rank_and_reopens_with_a_new_attempt(
    sink: OfflineSink, root: Path
) -> None:
    ranks = [Feed("run 1", "project", rank) for rank in range(2)]
    layout = Layout(root, ranks[0].ref)
    events = [*(rank.started(ranks=2) for rank in ranks), ranks[0].finished()]
    await write_run(sink, ranks[0], events)
    assert not layout.archive.exists()
    events.append(ranks[1].finished("killed"))
    await write_run(sink, ranks[0], events)
    assert layout.archive.exists()
    assert "killed" in task_of(layout)["tags"]
    again = Feed("run 1", "project", rank=1, attempt=2)
    events.append(again.started(ranks=2))
    await write_run(sink, ranks[0], events)
    assert task_of(layout)["status"] == "in_progress"
    assert "killed" not in task_of(layout)["tags"]
    events.append(again.finished())
    await write_run(sink, ranks[0], events)
    assert task_of(layout)["status"] == "completed"


async def test_weights_go_where_the_run_or_the_environment_says(
    root: Path,
    feed: Feed,
    clearml_server: ClearmlServer,
    processes: Processes,
    tmp_path: Path,
) -> None:
    sink = OfflineSink(root, destination=clearml_server.files_url)
    await write_run(sink, feed, await asyncio.to_thread(whole_run, feed, tmp_path))
    await sink.close()
    (task,) = await asyncio.to_thread(
        import_sessions, processes, clearml_server, tmp_path, Layout(root, feed.ref).archive
    )

    def weights() -> bytes | None:
        return clearml_server.file(clearml_server.models(task)["best"]["uri"])

    assert await until(weights, 10, "weights uploaded") == b"best"


async def test_a_zip_taken_to_another_machine_has_all_but_the_weights(
    root: Path,
    feed: Feed,
    clearml_server: ClearmlServer,
    processes: Processes,
    tmp_path: Path,
) -> None:
    sink = OfflineSink(root, destination=clearml_server.files_url)
    await write_run(sink, feed, await asyncio.to_thread(whole_run, feed, tmp_path))
    await sink.close()
    archive = tmp_path / "taken away.zip"
    shutil.copy(Layout(root, feed.ref).archive, archive)
    shutil.rmtree(root)
    (task,) = await asyncio.to_thread(import_sessions, processes, clearml_server, tmp_path, archive)
    assert len(clearml_server.scalars(task)) == 4
    assert None not in clearml_server.images(task).values()
    assert clearml_server.artifacts(task).keys() == {"data/a b.csv", "tree"}
    assert clearml_server.file(clearml_server.models(task)["best"]["uri"]) is None
