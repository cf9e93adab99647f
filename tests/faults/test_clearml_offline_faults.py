"""What kills, full disks, damage and other workers do to a session."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bus.errors import MarksMovedError, PermanentSinkError, RetryableSinkError
from bus.kinds import Artifact, Console, Image
from bus.sinks import Marks
from subscribers.clearml.offline.layout import Layout
from subscribers.clearml.offline.sink import OfflineSink
from tests.fixtures.clearml.sessions import whole_run, write_run
from tests.fixtures.feed import Feed, marks_of
from tests.fixtures.missing import missing
from tests.fixtures.processes import Processes


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, check=False, capture_output=True).returncode:
        missing("a small file system", "mounting a tmpfs takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def steps(root: Path, feed: Feed) -> list[int]:
    """The iterations of all events of the session, in order."""
    lines = (Layout(root, feed.ref).folder / "metrics.jsonl").read_text("ascii").splitlines()
    return [event["iter"] for line in lines for event in json.loads(line)]


def console(root: Path, feed: Feed) -> list[str]:
    lines = (Layout(root, feed.ref).folder / "log.jsonl").read_text("ascii").splitlines()
    return [event["msg"] for line in lines for event in json.loads(line)]


def damage(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def read(path: Path) -> bytes:
    return path.read_bytes()


@pytest.mark.slow
def test_a_worker_killed_at_any_line_leaves_what_is_gone_on_with(
    processes: Processes, tmp_path: Path
) -> None:
    helper = Path(__file__).with_name("offlinekills.py")
    environ = {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = processes.python(str(helper), str(tmp_path), "31", environ=environ)
    assert process.wait(110) == 0, process.printed()
    assert int(process.stdout) > 50


async def test_the_tail_of_a_write_that_was_cut_short_is_cut_off(
    sink: OfflineSink, root: Path, feed: Feed
) -> None:
    start = [
        feed.started(),
        feed.metrics(["loss"], range(3)),
        feed.event("console", Console(["a"])),
    ]
    await write_run(sink, feed, start)
    folder = Layout(root, feed.ref).folder
    for name in ("metrics.jsonl", "log.jsonl"):
        damage(folder / name, read(folder / name) + b'[{"iter":99},\n[{"half of')
    late = [feed.metrics(["loss"], range(3, 5)), feed.event("console", Console(["b"]))]
    other = OfflineSink(root)
    await write_run(other, feed, [*start, *late])
    await other.close()
    assert steps(root, feed) == list(range(5))
    assert console(root, feed) == ["a", "b"]


async def test_console_lines_are_single_also_after_a_replay_by_force(
    sink: OfflineSink, root: Path, feed: Feed
) -> None:
    lines = [feed.event("console", Console([f"line {n}"])) for n in range(3)]
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, lines[:2], marks_of(lines[:2], dead=lines[2:]))
    for _ in range(2):
        await sink.write(feed.ref, lines, marks_of(lines))
    assert console(root, feed) == ["line 0", "line 1", "line 2"]


@pytest.mark.parametrize("name", ["trainbus.json", "metrics.jsonl"])
async def test_a_session_that_lost_bytes_is_written_anew(
    sink: OfflineSink, root: Path, feed: Feed, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    events = [feed.started(), feed.metrics(["loss"], range(3)), feed.finished()]
    await write_run(sink, feed, events)
    path = Layout(root, feed.ref).folder / name
    whole = read(path)
    damage(path, whole[: len(whole) // 2])
    other = OfflineSink(root)
    assert await other.open_run(feed.ref) == Marks()
    assert "written anew" in caplog.text
    await write_run(other, feed, events)
    contents = await other.contents(feed.ref)
    await other.close()
    assert contents is not None
    assert contents.points == 3
    assert steps(root, feed) == list(range(3))


async def test_a_session_that_somebody_removed_is_written_anew(
    sink: OfflineSink, root: Path, feed: Feed
) -> None:
    events = [feed.started(), feed.metrics(["loss"], range(3)), feed.finished()]
    await write_run(sink, feed, events)
    shutil.rmtree(Layout(root, feed.ref).folder)
    late = feed.metrics(["loss"], range(3, 4))
    with pytest.raises(MarksMovedError):
        await sink.write(feed.ref, [late], marks_of(events, [late]))
    await write_run(sink, feed, [*events, late])
    assert steps(root, feed) == list(range(4))


async def test_a_session_of_a_newer_trainbus_is_left_alone(
    sink: OfflineSink, root: Path, feed: Feed
) -> None:
    await write_run(sink, feed, [feed.started()])
    path = Layout(root, feed.ref).folder / "trainbus.json"
    damage(path, json.dumps({**json.loads(read(path)), "version": 99}).encode())
    with pytest.raises(RetryableSinkError, match="update it"):
        await sink.open_run(feed.ref)


async def test_a_worker_that_was_overtaken_writes_nothing(
    sink: OfflineSink, root: Path, feed: Feed
) -> None:
    events = [feed.started(), *(feed.metrics(["loss"], range(n, n + 1)) for n in range(3))]
    other = OfflineSink(root)
    await write_run(sink, feed, events[:2])
    await write_run(other, feed, events[:3])
    before = steps(root, feed)
    with pytest.raises(MarksMovedError):
        await sink.write(feed.ref, events[2:], marks_of(events))
    assert steps(root, feed) == before
    await write_run(sink, feed, events)
    await other.close()
    assert steps(root, feed) == [0, 1, 2]


async def test_two_workers_at_once_wait_for_each_other(
    sink: OfflineSink, root: Path, feed: Feed
) -> None:
    await write_run(sink, feed, [feed.started()])
    late = feed.metrics(["loss"], range(3))
    # As a worker that was stopped (SIGSTOP) in the middle of a write holds it.
    handle = os.open(Layout(root, feed.ref).folder / "trainbus.lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        async with asyncio.timeout(10):
            with pytest.raises(RetryableSinkError, match="another worker"):
                await sink.write(feed.ref, [late], marks_of([late]))
    finally:
        os.close(handle)
    await sink.write(feed.ref, [late], marks_of([late]))
    assert steps(root, feed) == list(range(3))


async def test_a_full_disk_is_waited_for_and_nothing_is_written_twice(
    small_disk: Path, feed: Feed
) -> None:
    sink = OfflineSink(small_disk)
    events = [feed.started(), feed.metrics(["loss"], range(10))]
    await write_run(sink, feed, events)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        damage(ballast, b"x" * 2**21)
    large = feed.metrics([f"metric number {n}" for n in range(40)], range(10, 30))
    with pytest.raises(RetryableSinkError, match="No space left"):
        await sink.write(feed.ref, [large], marks_of(events, [large]))
    await asyncio.to_thread(ballast.unlink)
    await sink.write(feed.ref, [large], marks_of(events, [large]))
    contents = await sink.contents(feed.ref)
    await sink.close()
    assert contents is not None
    assert contents.points == 10 + 40 * 20
    assert len(steps(small_disk, feed)) == 10 + 40 * 20


async def test_a_folder_that_cannot_be_written_is_waited_for(root: Path, feed: Feed) -> None:
    damage(root, b"a file where the folder is to be")
    sink = OfflineSink(root)
    with pytest.raises(RetryableSinkError, match="sessions"):
        await sink.write(feed.ref, [feed.started()], Marks())
    await sink.close()


async def test_a_file_that_the_store_lost_is_given_up_and_another_waited_for(
    sink: OfflineSink, feed: Feed, tmp_path: Path
) -> None:
    events = await asyncio.to_thread(whole_run, feed, tmp_path)
    artifacts = [event for event in events if isinstance(event.data, Artifact)]
    stored = next((tmp_path / "store").glob("*/*"))
    await sink.open_run(feed.ref)
    shutil.rmtree(stored.parent.parent)
    with pytest.raises(RetryableSinkError, match="TRAINBUS_STORE"):
        await sink.write(feed.ref, artifacts[:1], marks_of(artifacts))
    (tmp_path / "store").mkdir()
    with pytest.raises(PermanentSinkError, match="not there"):
        await sink.write(feed.ref, artifacts[:1], marks_of(artifacts))


async def test_names_cannot_leave_the_session(
    sink: OfflineSink, root: Path, tmp_path: Path
) -> None:
    names = ["../../../evil", "/etc/passwd", "a\0b", ".", "..", "x" * 900, "a/b", "a", "x~part"]
    feed = Feed("../run", "../../project")
    picture = next(
        event
        for event in await asyncio.to_thread(whole_run, feed, tmp_path)
        if isinstance(event.data, Image)
    )
    assert isinstance(picture.data, Image)
    blob, url = picture.data.blob, picture.dataref
    events = [feed.event("image", Image(name, name, blob, n), url) for n, name in enumerate(names)]
    events += [feed.event("artifact", Artifact(name, blob), url) for name in names]
    await write_run(sink, feed, events)
    folder = Layout(root, feed.ref).folder
    assert await asyncio.to_thread(outside, tmp_path, folder) == []
    assert len(await asyncio.to_thread(files_below, folder / "data")) == 2 * len(names)


def outside(root: Path, folder: Path) -> list[Path]:
    return [path for path in root.rglob("*evil*") if not path.is_relative_to(folder)]


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
