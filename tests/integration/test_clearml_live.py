"""The live ClearML sink against the stand-in: what is there after a write, and how often."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bus.errors import RetryableSinkError
from bus.kinds import Console, NonFinite, Params, Summary, System, Tags
from bus.sinks import KeepsAlive, Marks, PointCounter, TellsToStop
from tests.fixtures.feed import START, Feed, marks_of
from tests.integration.clearml_feed import QUIET, make_live, task_of

if TYPE_CHECKING:
    from subscribers.clearml.live import LiveSink
    from tests.fixtures.clearml.server import ClearmlServer

pytestmark = QUIET


@pytest.fixture
async def sink(clearml_server: ClearmlServer, tmp_path: Path) -> AsyncIterator[LiveSink]:
    sink = make_live(clearml_server, tmp_path)
    yield sink
    await sink.close()


async def test_everything_is_there_once_after_writing_it_twice(
    sink: LiveSink, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    feed = Feed("r'1\" %", "Team/digits")
    events = [
        feed.started(
            tags={"team": "vision", "Ultralytics": ""},
            notes="a note",
            user="ada",
            program="train.py",
            config={"epochs": 3},
        ),
        feed.event("params", Params("General", {"lr0": 0.01, "epochs": 3, "aug": {"h": 0.5}})),
        feed.event("params", Params("opt", {"name": "adam"})),
        feed.metrics(["train/loss", "lr", "val-set/acc"], range(700)),
        feed.event("tags", Tags({"stage": "test"})),
        feed.metrics(["train/loss"], range(700, 1400)),
        feed.metrics(["odd"], range(3), NonFinite.NAN),
        feed.event("summary", Summary({"mAP50": 0.9, "worst": NonFinite.INFINITY})),
        feed.event("system", System({"cpu.percent": 12})),
    ]
    assert await sink.open_run(feed.ref) == Marks()
    assert clearml_server.tasks() == []
    await sink.write(feed.ref, events, marks_of(events))
    await sink.close_run(feed.ref)

    other = make_live(clearml_server, tmp_path)
    assert await other.open_run(feed.ref) == marks_of(events)
    await other.write(feed.ref, events, marks_of(events))
    contents = await other.contents(feed.ref)
    await other.close()

    task = task_of(clearml_server, feed.ref)
    key = task["id"]
    expected = set().union(*(sink.expected_points(event) for event in events))
    assert contents is not None
    assert contents.marks == marks_of(events)
    assert contents.points == len(expected) == 700 * 3 + 700 + 1 + 1
    assert contents.url is not None
    assert key in contents.url
    scalars = clearml_server.scalars(key)
    assert scalars["train", "loss"] == {step: step + 0.5 for step in range(1400)}
    assert len(scalars["val-set", "acc"]) == len(scalars["lr", "lr"]) == 700
    assert ("odd", "odd") not in scalars
    assert clearml_server.single_values(key) == {"mAP50": 0.9}
    params = clearml_server.hyperparams(key)
    assert params["General"] == {"lr0": "0.01", "epochs": "3", "aug/h": "0.5"}
    assert params["opt"] == {"name": "adam"}
    assert params["properties"]["trainbus.user"] == "ada"
    assert '"odd/odd": {"count": 6' in params["properties"]["trainbus.nonfinite"]
    assert (task["name"], task["type"], task["comment"]) == (
        feed.ref.run_name,
        "training",
        "a note",
    )
    assert task["system_tags"] == ["development"]
    assert set(task["tags"]) >= {"team:vision", "Ultralytics", "stage:test"}
    assert task["script"]["entry_point"] == "train.py"
    assert task["configuration"]["config"]["value"] == '{\n  "epochs": 3\n}'
    assert task["status"] == "in_progress"
    assert clearml_server.project("Team/digits")["id"] == task["project"]


async def test_values_left_out_are_counted_once_however_often_a_batch_is_tried(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    feed = Feed("odd", "digits")
    events = [feed.started(), feed.metrics(["loss"], range(4), NonFinite.NAN)]
    await sink.open_run(feed.ref)
    clearml_server.faults.drop("tasks.edit_hyper_params", 1, is_done=True)
    with pytest.raises(RetryableSinkError):
        await sink.write(feed.ref, events, marks_of(events))
    await sink.write(feed.ref, events, marks_of(events))
    more = [feed.metrics(["loss"], range(4, 6), NonFinite.INFINITY)]
    await sink.write(feed.ref, more, marks_of(events, more))
    properties = clearml_server.hyperparams(task_of(clearml_server, feed.ref)["id"])["properties"]
    assert properties["trainbus.nonfinite"] == (
        '{"loss/loss": {"count": 6, "first": 0, "last": 5, "values": ["Infinity", "NaN"]}}'
    )


async def test_two_runs_at_once_and_a_new_project_for_both(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    feeds = [Feed(f"run{number}", "new project") for number in range(6)]
    clearml_server.faults.slow("projects.*", 0.05)

    async def one(feed: Feed) -> None:
        await sink.open_run(feed.ref)
        for number in range(3):
            events = [feed.metrics(["loss"], range(number * 10, number * 10 + 10))]
            await sink.write(feed.ref, events, marks_of(events))

    await asyncio.gather(*(one(feed) for feed in feeds))
    assert len(clearml_server.requests_of("projects.create")) == 1
    for feed in feeds:
        task = task_of(clearml_server, feed.ref)
        assert len(clearml_server.scalars(task["id"])["loss", "loss"]) == 30


def test_two_workers_in_two_threads_share_a_new_project(
    clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    ready = threading.Barrier(2)
    feeds = [Feed(f"run{number}", "shared project") for number in range(2)]

    async def work(feed: Feed) -> None:
        sink = make_live(clearml_server, tmp_path)
        await sink.open_run(feed.ref)
        await asyncio.to_thread(ready.wait, 10)
        events = [feed.started(), feed.metrics(["loss"], range(600)), feed.finished()]
        await sink.write(feed.ref, events, marks_of(events))
        await sink.close()

    threads = [threading.Thread(target=lambda feed=feed: asyncio.run(work(feed))) for feed in feeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    projects = {task_of(clearml_server, feed.ref)["project"] for feed in feeds}
    assert projects == {clearml_server.project("shared project")["id"]}
    assert [task["status"] for task in clearml_server.tasks()] == ["completed"] * 2


async def test_one_run_id_in_two_projects_is_two_tasks(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    feeds = [Feed("same", project) for project in ("first", "second")]
    for feed in feeds:
        events = [feed.metrics(["loss"], range(2))]
        await sink.open_run(feed.ref)
        await sink.write(feed.ref, events, marks_of(events))
    projects = {task["project"] for task in clearml_server.tasks()}
    assert len(projects) == len(clearml_server.tasks()) == 2


async def test_a_task_that_was_moved_is_found_and_a_clone_is_not_taken_for_it(
    sink: LiveSink, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    feed = Feed("moved", "digits")
    first = [feed.started(), feed.metrics(["loss"], range(3))]
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, first, marks_of(first))
    task = task_of(clearml_server, feed.ref)
    with clearml_server.store.lock:
        clearml_server.store.projects["elsewhere"] = {"id": "elsewhere", "name": "elsewhere"}
        task["project"] = "elsewhere"
        clone = {**task, "id": "clone", "created": "2000-01-01"}
        clearml_server.store.tasks = {"clone": clone, **clearml_server.store.tasks}
    other = make_live(clearml_server, tmp_path)
    assert await other.open_run(feed.ref) == marks_of(first)
    second = [feed.metrics(["loss"], range(3, 6))]
    await other.write(feed.ref, second, marks_of(first, second))
    await other.close()
    assert len(clearml_server.scalars(task["id"])["loss", "loss"]) == 6
    assert len(clearml_server.tasks()) == 2


async def test_marks_of_many_ranks_and_holes_survive_a_takeover(
    sink: LiveSink, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    ranks = [Feed("ranks", "digits", rank) for rank in range(3)]
    marks = Marks()
    await sink.open_run(ranks[0].ref)
    for feed in ranks:
        event = feed.metrics([f"rank{feed.rank}/m"], range(2))
        marks.add_applied(event.source, event.id)
        await sink.write(feed.ref, [event], marks)
    for number in range(1, 6001, 2):
        marks.add_applied(ranks[1].source, number)
    marks.add_dead(ranks[2].source, 7)
    marks.add_superseded(ranks[2].source, 9)
    await sink.write(ranks[0].ref, [], marks)
    other = make_live(clearml_server, tmp_path)
    assert await other.open_run(ranks[0].ref) == marks
    await other.close()


async def test_marks_alone_make_a_task_that_holds_them(
    sink: LiveSink, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    feed = Feed("dead", "digits")
    dead = feed.started()
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, [], marks_of(dead=[dead]))
    other = make_live(clearml_server, tmp_path)
    assert await other.open_run(feed.ref) == marks_of(dead=[dead])
    await other.close()


async def test_a_later_tag_of_a_name_replaces_the_earlier_and_other_tags_stay(
    sink: LiveSink, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    feed = Feed("tags", "digits")
    first = [feed.started(tags={"stage": "draft", "team": "vision"})]
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, first, marks_of(first))
    task = task_of(clearml_server, feed.ref)
    task["tags"] = [*task["tags"], "by hand"]
    other = make_live(clearml_server, tmp_path)
    second = [feed.event("tags", Tags({"stage": "final"}))]
    await other.write(feed.ref, second, marks_of(first, second))
    await other.close()
    tags = task_of(clearml_server, feed.ref)["tags"]
    assert set(tags) == {"trainbus-run:tags", "team:vision", "stage:final", "by hand"}


async def test_console_lines_arrive_in_order(sink: LiveSink, clearml_server: ClearmlServer) -> None:
    feed = Feed("console", "digits")
    events = [
        feed.event("console", Console(["epoch 1", "ünï\nx"])),
        feed.event("console", Console([])),
    ]
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, events, marks_of(events))
    lines = clearml_server.events(task_of(clearml_server, feed.ref)["id"], "log")
    assert [(line["msg"], line["worker"]) for line in lines] == [
        ("epoch 1", "node-0"),
        ("ünï\nx", "node-0"),
    ]
    assert lines[0]["timestamp"] == int(START * 1000)


async def test_options_of_a_run_choose_project_type_and_destination(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    feed = Feed("options", "digits")
    options = {"project": "Other place", "task_type": "testing", "output_destination": "s3://b/x"}
    started = feed.started(options={"clearml": options})
    early = Feed("options", "digits", rank=1).metrics(["m"], range(2))
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, [early], marks_of([early]))
    assert task_of(clearml_server, feed.ref)["project"] == clearml_server.project("digits")["id"]
    await sink.write(feed.ref, [started], marks_of([early, started]))
    task = task_of(clearml_server, feed.ref)
    assert task["project"] == clearml_server.project("Other place")["id"]
    assert (task["type"], task["output"]["destination"]) == ("testing", "s3://b/x")


async def test_a_nested_run_is_linked_to_its_parent_whichever_comes_first(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    parent, child = Feed("parent", "digits"), Feed("child", "digits")
    start = [child.started(parent="parent")]
    await sink.write(child.ref, start, marks_of(start))
    begun = [parent.started()]
    await sink.write(parent.ref, begun, marks_of(begun))
    end = [child.finished()]
    await sink.write(child.ref, end, marks_of(start, end))
    linked = task_of(clearml_server, child.ref)["parent"]
    assert linked == task_of(clearml_server, parent.ref)["id"]


async def test_it_offers_what_the_worker_asks_for(sink: LiveSink) -> None:
    assert isinstance(sink, PointCounter)
    assert isinstance(sink, KeepsAlive)
    assert isinstance(sink, TellsToStop)
    assert sink.keep_alive_seconds < 7200 / 2
    assert await sink.contents(Feed("nobody", "digits").ref) is None
