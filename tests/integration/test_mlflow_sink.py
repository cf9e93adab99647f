"""The MLflow sink against a real server and against SQLite in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from mlflow.tracking import MlflowClient

from bus.errors import PermanentSinkError, RetryableSinkError
from bus.kinds import NonFinite, Params, Summary, System, Tags
from bus.sinks import Marks, RunRef
from subscribers.mlflow.points import expected_points
from subscribers.mlflow.sink import MlflowSink
from tests.fixtures.mlflow import MlflowServer
from tests.integration.mlflow_feed import (
    START,
    Feed,
    history,
    make_sink,
    marks_of,
    run_in,
)


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow sqlite') / 'mlflow.db'}"


@pytest.fixture(params=["server", "sqlite"])
def uri(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_uri"))
    server = request.getfixturevalue("mlflow_server")
    assert isinstance(server, MlflowServer)
    return server.uri


@pytest.fixture
async def sink(uri: str, tmp_path: Path) -> AsyncIterator[MlflowSink]:
    sink = make_sink(uri, tmp_path)
    yield sink
    await sink.close()


@pytest.fixture
def client(uri: str, sink: MlflowSink) -> MlflowClient:
    return MlflowClient(uri, uri)


@pytest.fixture
def project() -> str:
    return f"project {uuid4().hex[:8]}"


async def test_everything_is_there_once_after_writing_it_twice(
    sink: MlflowSink, client: MlflowClient, project: str, uri: str, tmp_path: Path
) -> None:
    feed = Feed("r'1\" %", project)
    events = [
        feed.started(tags={"team": "vision"}, notes="a note", user="ada", program="train.py"),
        feed.event("params", Params("General", {"lr": 0.01, "layers": [1, 2], "on": True})),
        feed.event("params", Params("opt", {"name": "adam"})),
        feed.metrics(["train/loss", "lr"], range(1300)),
        feed.event("tags", Tags({"stage": "test", "trainbus.run_id": "no"})),
        feed.metrics(["train/loss", "lr"], range(1300, 1400)),
        feed.event("summary", Summary({"accuracy": 0.97})),
        feed.event("system", System({"cpu.percent": 12})),
    ]
    assert await sink.open_run(feed.ref) == Marks()
    await sink.write(feed.ref, events, marks_of(events))
    await sink.close_run(feed.ref)

    other = make_sink(uri, tmp_path)
    assert await other.open_run(feed.ref) == marks_of(events)
    await other.write(feed.ref, events, marks_of(events))
    contents = await other.contents(feed.ref)
    await other.close()

    run = await run_in(client, feed.ref)
    expected = set().union(*(expected_points(event) for event in events))
    assert contents is not None
    assert contents.marks == marks_of(events)
    assert contents.points == len(expected) == 2802
    assert {
        (key, *point) for key in run.data.metrics for point in history(client, run, key)
    } == expected
    assert run.data.params == {
        "lr": "0.01",
        "layers": "[1, 2]",
        "on": "True",
        "opt/name": "adam",
    }
    tags = run.data.tags
    assert (tags["team"], tags["stage"]) == ("vision", "test")
    assert (tags["mlflow.user"], tags["mlflow.source.name"]) == ("ada", "train.py")
    assert tags["mlflow.note.content"] == "a note"
    assert tags["trainbus.run_id"] == "r'1\" %"
    assert (run.info.run_name, run.info.start_time) == (feed.ref.run_name, int(START * 1000))
    assert (run.info.status, run.info.end_time) == ("RUNNING", None)
    if uri.startswith("http"):
        assert contents.url is not None
        assert contents.url.startswith(uri)


async def test_a_sink_killed_between_two_writes_goes_on_where_it_was(
    sink: MlflowSink, client: MlflowClient, project: str, uri: str, tmp_path: Path
) -> None:
    feed = Feed("killed", project)
    first = [feed.started(), feed.metrics(["loss"], range(50))]
    second = [feed.metrics(["loss"], range(50, 100)), feed.finished()]
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, first, marks_of(first))
    other = make_sink(uri, tmp_path)
    assert await other.open_run(feed.ref) == marks_of(first)
    # The marks of the first batch were never seen, as it would be without them.
    await other.write(feed.ref, [*first, *second], marks_of(first, second))
    await other.close()
    run = await run_in(client, feed.ref)
    assert [step for _, step, _ in history(client, run, "loss")] == list(range(100))
    assert (run.info.status, run.info.end_time) == ("FINISHED", int(START * 1000) + 3000)


async def test_two_runs_at_once_and_a_new_experiment_for_both(
    sink: MlflowSink, client: MlflowClient, project: str
) -> None:
    feeds = [Feed(f"run{number}", project) for number in range(2)]

    async def one(feed: Feed) -> None:
        await sink.open_run(feed.ref)
        for number in range(3):
            events = [feed.metrics(["loss"], range(number * 10, number * 10 + 10))]
            await sink.write(feed.ref, events, marks_of(events))

    await asyncio.gather(*(one(feed) for feed in feeds))
    for feed in feeds:
        assert len(history(client, await run_in(client, feed.ref), "loss")) == 30


async def test_marks_of_two_ranks_and_dead_ids_survive_side_by_side(
    sink: MlflowSink, project: str, uri: str, tmp_path: Path
) -> None:
    ranks = [Feed("two", project, rank) for rank in range(2)]
    marks = Marks()
    await sink.open_run(ranks[0].ref)
    for feed in ranks:
        for number in range(3):
            event = feed.metrics([f"m{feed.rank}"], range(number, number + 1))
            marks.add_applied(event.source, event.id)
            await sink.write(feed.ref, [event], marks)
    marks.add_dead(ranks[1].source, 7)
    await sink.write(ranks[0].ref, [], marks)
    other = make_sink(uri, tmp_path)
    assert await other.open_run(ranks[0].ref) == marks
    await other.close()


async def test_marks_with_many_holes_take_several_tags(
    sink: MlflowSink, project: str, uri: str, tmp_path: Path
) -> None:
    feed = Feed("holes", project)
    marks = Marks()
    for number in range(1, 6001, 2):
        marks.add_applied(feed.source, number)
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, [], marks)
    other = make_sink(uri, tmp_path)
    assert await other.open_run(feed.ref) == marks
    marks.applied[feed.source].add(1, 6000)
    await other.write(feed.ref, [], marks)
    assert await sink.open_run(feed.ref) == marks
    await other.close()


async def test_a_param_that_changes_is_refused_for_good_and_its_neighbours_arrive(
    sink: MlflowSink, client: MlflowClient, project: str
) -> None:
    feed = Feed("poison", project)
    good = [feed.started(), feed.event("params", Params("General", {"lr": 0.1}))]
    bad = feed.event("params", Params("General", {"lr": 0.2}))
    after = [feed.metrics(["loss"], range(10)), feed.event("params", Params("General", {"n": 1}))]
    await sink.open_run(feed.ref)
    with pytest.raises(PermanentSinkError, match="lr"):
        await sink.write(feed.ref, [*good, bad, *after], marks_of(good, [bad], after))
    await sink.write(feed.ref, good, marks_of(good))
    with pytest.raises(PermanentSinkError, match="lr"):
        await sink.write(feed.ref, [bad, *after], marks_of(good, [bad], after))
    with pytest.raises(PermanentSinkError, match="lr"):
        await sink.write(feed.ref, [bad], marks_of(good, [bad]))
    marks = marks_of(good, after, dead=[bad])
    await sink.write(feed.ref, after, marks)
    contents = await sink.contents(feed.ref)
    assert contents is not None
    assert contents.marks == marks
    run = await run_in(client, feed.ref)
    assert run.data.params == {"lr": "0.1", "n": "1"}
    assert len(history(client, run, "loss")) == 10


async def test_names_that_mlflow_refuses_are_changed_and_kept_apart(
    sink: MlflowSink, client: MlflowClient, project: str
) -> None:
    feed = Feed("names", project)
    odd = ["loss (train)", "loss [train]", "/a//b/", "a/../b", "x" * 1000, "ünï/çødé", "a\nb", "."]
    events = [
        feed.metrics(odd, range(2)),
        feed.event("params", Params("a?b", dict.fromkeys(odd, 1))),
        feed.event("tags", Tags(dict.fromkeys(odd, "v"))),
    ]
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, events, marks_of(events))
    run = await run_in(client, feed.ref)
    contents = await sink.contents(feed.ref)
    assert contents is not None
    assert contents.points == 2 * len(odd)
    assert len(run.data.params) == len(odd)
    assert "ünï/çødé" in run.data.metrics
    originals = {value for key, value in run.data.tags.items() if key.startswith("trainbus.name.")}
    assert {"loss (train)", "loss [train]", "/a//b/", "a/../b", "x" * 1000} <= originals


async def test_nan_is_kept_and_infinity_becomes_nan_with_a_tag_that_says_so(
    sink: MlflowSink, client: MlflowClient, project: str
) -> None:
    feed = Feed("nan", project)
    events = [
        feed.metrics(["a"], range(3), NonFinite.NAN),
        feed.metrics(["b"], range(3), NonFinite.INFINITY),
        feed.metrics(["b"], range(7, 9), NonFinite.NEGATIVE_INFINITY),
        feed.metrics(["b"], range(3, 4)),
    ]
    await sink.open_run(feed.ref)
    for _ in range(2):
        await sink.write(feed.ref, events, marks_of(events))
    run = await run_in(client, feed.ref)
    assert [value for _, _, value in history(client, run, "a")] == ["nan"] * 3
    assert [value for _, _, value in history(client, run, "b")] == ["nan"] * 3 + [3.5, "nan", "nan"]
    assert run.data.tags["trainbus.nonfinite.b"] == (
        "-Infinity and Infinity, logged as NaN; steps 0 to 8"
    )
    contents = await sink.contents(feed.ref)
    assert contents is not None
    assert contents.points == len(set().union(*map(expected_points, events))) == 9


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        ("completed", "completed", "FINISHED"),
        ("failed", "completed", "FAILED"),
        ("failed", "killed", "KILLED"),
    ],
)
async def test_a_run_ends_when_all_its_ranks_have(
    sink: MlflowSink, client: MlflowClient, project: str, first: str, second: str, status: str
) -> None:
    ranks = [Feed("end", project, rank) for rank in range(2)]
    await sink.open_run(ranks[0].ref)
    starts = [feed.started(ranks=2) for feed in ranks]
    one = ranks[0].finished(first, error="it broke" if first == "failed" else "")
    await sink.write(ranks[0].ref, [*starts, one], marks_of([*starts, one]))
    assert (await run_in(client, ranks[0].ref)).info.status == "RUNNING"
    ranks[1].metrics(["skipped"], range(1))
    other = ranks[1].finished(second)
    await sink.write(ranks[0].ref, [other], marks_of([*starts, one, other]))
    run = await run_in(client, ranks[0].ref)
    assert (run.info.status, run.info.end_time) == (status, int(START * 1000) + 2000)
    assert run.data.tags.get("trainbus.error") == ("it broke" if first == "failed" else None)


async def test_a_second_attempt_reopens_the_run_even_for_another_worker(
    sink: MlflowSink, client: MlflowClient, project: str, uri: str, tmp_path: Path
) -> None:
    first, second = Feed("again", project), Feed("again", project, attempt=2)
    events = [first.started(), first.finished("killed")]
    await sink.open_run(first.ref)
    await sink.write(first.ref, events, marks_of(events))
    assert (await run_in(client, first.ref)).info.status == "KILLED"
    other = make_sink(uri, tmp_path)
    await other.open_run(first.ref)
    start = second.started()
    await other.write(first.ref, [start], marks_of(events, [start]))
    assert (await run_in(client, first.ref)).info.status == "RUNNING"
    second.metrics(["skipped"], range(1))
    end = second.finished()
    await other.write(first.ref, [end], marks_of(events, [start, end]))
    run = await run_in(client, first.ref)
    assert (run.info.status, run.info.end_time) == ("FINISHED", int(START * 1000) + 2000)
    # A late event of a finished run is still applied, and leaves the end as it is.
    late = second.metrics(["late"], range(1))
    await other.write(first.ref, [late], marks_of(events, [start, end, late]))
    run = await run_in(client, first.ref)
    assert "late" in run.data.metrics
    assert (run.info.status, run.info.end_time) == ("FINISHED", int(START * 1000) + 2000)
    await other.close()


@pytest.mark.parametrize("order", ["parent first", "child first"])
async def test_a_child_run_finds_its_parent_whoever_comes_first(
    sink: MlflowSink, client: MlflowClient, project: str, order: str
) -> None:
    parent, child = Feed("parent", project), Feed("child", project)
    pairs = [(parent, parent.started()), (child, child.started(parent="parent"))]
    for feed, event in pairs if order == "parent first" else reversed(pairs):
        await sink.open_run(feed.ref)
        await sink.write(feed.ref, [event], marks_of([event]))
    run = await run_in(client, child.ref)
    assert run.data.tags["mlflow.parentRunId"] == (await run_in(client, parent.ref)).info.run_id


async def test_a_run_deleted_in_mlflow_is_left_deleted(
    sink: MlflowSink, client: MlflowClient, project: str, uri: str, tmp_path: Path
) -> None:
    feed = Feed("deleted", project)
    event = feed.started()
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, [event], marks_of([event]))
    client.delete_run((await run_in(client, feed.ref)).info.run_id)
    with pytest.raises(PermanentSinkError, match="deleted"):
        await sink.write(feed.ref, [feed.metrics(["a"], range(1))], marks_of([event]))
    other = make_sink(uri, tmp_path)
    with pytest.raises(PermanentSinkError, match="left so"):
        await other.open_run(feed.ref)
    assert await other.contents(feed.ref) is None
    await other.close()


async def test_a_deleted_experiment_is_named(
    sink: MlflowSink, client: MlflowClient, project: str
) -> None:
    client.delete_experiment(client.create_experiment(project))
    with pytest.raises(PermanentSinkError, match="restore it"):
        await sink.open_run(RunRef(project, "r", "r"))


async def test_nothing_is_created_by_asking(
    sink: MlflowSink, client: MlflowClient, project: str
) -> None:
    assert await sink.contents(RunRef(project, "r", "r")) is None
    assert client.get_experiment_by_name(project) is None


async def test_a_time_before_1970_is_refused_for_good(sink: MlflowSink, project: str) -> None:
    feed = Feed("old", project)
    await sink.open_run(feed.ref)
    with pytest.raises(PermanentSinkError, match="out of range"):
        await sink.write(feed.ref, [feed.metrics(["a"], range(-(10**11), -(10**11) + 1))], Marks())


async def test_a_value_too_long_for_mlflow_is_shortened_openly_and_kept_whole(
    sink: MlflowSink, client: MlflowClient, project: str
) -> None:
    feed = Feed("long", project)
    values = {"long": "x" * 7000, "empty": "", "nul": "a\0b", "none": None}
    events = [
        feed.started(notes="n" * 9000, config={"model": {"depth": 3}}),
        feed.event("params", Params("General", values)),
        feed.event("params", Params("many", {f"p{number}": "y" * 3000 for number in range(250)})),
    ]
    await sink.open_run(feed.ref)
    for _ in range(2):
        await sink.write(feed.ref, events, marks_of(events))
    run = await run_in(client, feed.ref)
    assert len(run.data.params) == 254
    assert run.data.params["long"].endswith("(7000 characters; whole in params/long.json)")
    assert (run.data.params["nul"], run.data.params["none"]) == ("a\\0b", "None")
    assert "9000 characters" in run.data.tags["mlflow.note.content"]
    folder = client.download_artifacts(run.info.run_id, "params")
    assert (Path(folder) / "long.json").read_text() == f'"{"x" * 7000}"'
    paths = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert paths == {"config.json", "params", "tags"}


async def test_an_unreachable_server_is_worth_another_try(tmp_path: Path) -> None:
    sink = make_sink("http://127.0.0.1:9", tmp_path)
    with pytest.raises(RetryableSinkError, match="experiment 'p'"):
        await sink.open_run(RunRef("p", "r", "r"))
    await sink.close()
