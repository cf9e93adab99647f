"""Status of a task: how runs end, begin again, are published, deleted, stopped by others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bus.artifacts import ArtifactStore
from bus.errors import PermanentSinkError, RetryableSinkError
from bus.kinds import Artifact, Params, RunFinished, Tags
from bus.sinks import RunRef
from tests.fixtures.feed import Feed, marks_of
from tests.integration.clearml_feed import QUIET, make_live, task_of

if TYPE_CHECKING:
    from subscribers.clearml.live import LiveSink
    from tests.fixtures.clearml.server import ClearmlServer

pytestmark = QUIET

TOMORROW = "9999-01-01"


@pytest.fixture
async def sink(clearml_server: ClearmlServer, tmp_path: Path) -> AsyncIterator[LiveSink]:
    sink = make_live(clearml_server, tmp_path)
    yield sink
    await sink.close()


@pytest.mark.parametrize(
    ("end", "status"), [("completed", "completed"), ("failed", "failed"), ("killed", "stopped")]
)
async def test_a_run_ends_as_its_ranks_do(
    sink: LiveSink, clearml_server: ClearmlServer, end: str, status: str
) -> None:
    ranks = [Feed(f"ends {end}", "digits", rank) for rank in range(2)]
    first = [feed.started(ranks=2) for feed in ranks]
    half = [ranks[0].finished()]
    await sink.write(ranks[0].ref, [*first, *half], marks_of(first, half))
    assert task_of(clearml_server, ranks[0].ref)["status"] == "in_progress"
    rest = [ranks[1].finished(end, error="out of memory")]
    await sink.write(ranks[0].ref, rest, marks_of(first, half, rest))
    task = task_of(clearml_server, ranks[0].ref)
    assert (task["status"], task["status_reason"]) == (status, "out of memory")
    properties = clearml_server.hyperparams(task["id"])["properties"]
    assert properties["trainbus.error.rank1"] == "out of memory"


async def test_the_reason_is_that_of_all_ranks_and_of_their_last_attempt(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    ranks = [Feed("reasons", "digits", rank) for rank in range(2)]
    batches = [[feed.started(ranks=2) for feed in ranks]]
    batches += [[ranks[1].finished("failed", error="out of memory")]]
    batches += [[ranks[0].finished("failed", error="no peer")]]
    for number in range(1, 4):
        await sink.write(ranks[0].ref, batches[number - 1], marks_of(*batches[:number]))
    task = task_of(clearml_server, ranks[0].ref)
    assert (task["status"], task["status_reason"]) == ("failed", "no peer; out of memory")

    again = [Feed("reasons", "digits", rank, attempt=2) for rank in range(2)]
    batches += [[feed.started(ranks=2) for feed in again], [feed.finished() for feed in again]]
    for number in range(4, 6):
        await sink.write(ranks[0].ref, batches[number - 1], marks_of(*batches[:number]))
    task = task_of(clearml_server, ranks[0].ref)
    assert (task["status"], task["status_reason"]) == ("completed", "")


async def test_late_events_of_a_completed_run_are_written_and_it_stays_completed(
    sink: LiveSink, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    feed = Feed("late", "digits")
    first = [feed.started(), feed.finished()]
    await sink.write(feed.ref, first, marks_of(first))
    other = make_live(clearml_server, tmp_path)
    scalars = [feed.metrics(["loss"], range(5))]
    await other.write(feed.ref, scalars, marks_of(first, scalars))
    task = task_of(clearml_server, feed.ref)
    assert task["status"] == "completed"
    assert len(clearml_server.requests_of("tasks.started")) == 1

    store = ArtifactStore((tmp_path / "store").as_uri())
    (tmp_path / "labels.csv").write_text("a,b")
    blob, url = feed.stored(store, tmp_path / "labels.csv")
    late = [
        feed.event("params", Params("General", {"lr": 0.1})),
        feed.event("tags", Tags({"late": ""})),
        feed.event("artifact", Artifact("data/labels.csv", blob), url),
    ]
    await other.write(feed.ref, late, marks_of(first, scalars, late))
    await other.close()
    task = task_of(clearml_server, feed.ref)
    assert task["status"] == "completed"
    assert clearml_server.hyperparams(task["id"])["General"] == {"lr": "0.1"}
    assert len(clearml_server.scalars(task["id"])["loss", "loss"]) == 5
    (artifact,) = task["execution"]["artifacts"]
    assert clearml_server.file(artifact["uri"]) == b"a,b"


async def test_a_kill_while_a_completed_run_was_begun_again_for_late_events_ends_well(
    sink: LiveSink, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    feed = Feed("late kill", "digits")
    first = [feed.started(), feed.finished()]
    await sink.write(feed.ref, first, marks_of(first))
    late = [feed.event("params", Params("General", {"lr": 0.1}))]
    clearml_server.faults.drop("tasks.completed", 1)
    with pytest.raises(RetryableSinkError):
        await sink.write(feed.ref, late, marks_of(first, late))
    assert task_of(clearml_server, feed.ref)["status"] == "in_progress"
    other = make_live(clearml_server, tmp_path)
    assert await other.open_run(feed.ref) == marks_of(first)
    await other.write(feed.ref, late, marks_of(first, late))
    await other.close()
    assert task_of(clearml_server, feed.ref)["status"] == "completed"


@pytest.mark.parametrize("end", ["completed", "failed", "killed"])
async def test_a_finished_run_that_starts_again_is_in_progress_again(
    sink: LiveSink, clearml_server: ClearmlServer, tmp_path: Path, end: str
) -> None:
    feed = Feed(f"again {end}", "digits")
    first = [feed.started(), feed.finished(end)]
    await sink.write(feed.ref, first, marks_of(first))
    again = Feed(f"again {end}", "digits", attempt=2)
    second = [again.started(), again.metrics(["loss"], range(3))]
    other = make_live(clearml_server, tmp_path)
    await other.write(feed.ref, second, marks_of(first, second))
    assert task_of(clearml_server, feed.ref)["status"] == "in_progress"
    end_of_second = [again.finished()]
    await other.write(feed.ref, end_of_second, marks_of(first, second, end_of_second))
    await other.close()
    assert task_of(clearml_server, feed.ref)["status"] == "completed"
    assert len(clearml_server.tasks()) == 1


async def test_a_lost_node_ends_the_run_and_reopens_it_when_it_returns(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    feed = Feed("lost", "digits")
    first = [feed.started()]
    lost = [feed.event("run_finished", RunFinished("killed", 1, "node is lost", loss=1))]
    back = [feed.event("run_started", feed.started(loss=2).data)]
    await sink.write(feed.ref, [*first, *lost], marks_of(first, lost))
    assert task_of(clearml_server, feed.ref)["status"] == "stopped"
    await sink.write(feed.ref, back, marks_of(first, lost, back))
    assert task_of(clearml_server, feed.ref)["status"] == "in_progress"


async def test_a_published_task_is_left_as_it_is_and_dead_letters_are_still_noted(
    sink: LiveSink, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    feed = Feed("published", "digits")
    first = [feed.started(), feed.metrics(["loss"], range(3))]
    await sink.write(feed.ref, first, marks_of(first))
    key = task_of(clearml_server, feed.ref)["id"]
    clearml_server.publish(key)
    more = [feed.metrics(["loss"], range(3, 6))]
    end = [feed.finished()]
    params = [feed.event("params", Params("General", {"lr": 0.1}))]
    for events in (more, end, params):
        with pytest.raises(PermanentSinkError, match="published in ClearML"):
            await sink.write(feed.ref, events, marks_of(first, events))
    dead = marks_of(first, dead=[*more, *end, *params])
    await sink.write(feed.ref, [], dead)
    other = make_live(clearml_server, tmp_path)
    assert await other.open_run(feed.ref) == dead
    with pytest.raises(PermanentSinkError, match="published in ClearML"):
        await other.write(feed.ref, more, marks_of(first, more))
    await other.close()
    assert task_of(clearml_server, feed.ref)["status"] == "published"
    assert len(clearml_server.scalars(key)["loss", "loss"]) == 3
    assert clearml_server.hyperparams(key).keys() == {"properties"}


async def test_a_deleted_task_is_left_deleted(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    feed = Feed("deleted", "digits")
    first = [feed.started()]
    await sink.write(feed.ref, first, marks_of(first))
    with clearml_server.store.lock:
        clearml_server.store.tasks.clear()
    more = [feed.metrics(["loss"], range(3))]
    end = [feed.finished()]
    for events in (more, end):
        with pytest.raises(PermanentSinkError, match="deleted in ClearML"):
            await sink.write(feed.ref, events, marks_of(first, events))
    with pytest.raises(PermanentSinkError, match="deleted in ClearML"):
        await sink.write(feed.ref, [], marks_of(first, dead=[*more, *end]))
    assert clearml_server.tasks() == []
    assert await sink.contents(feed.ref) is None


async def test_a_project_that_was_deleted_is_created_again_for_the_next_run(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    first, second = Feed("first", "digits"), Feed("second", "digits")
    events = [first.started()]
    await sink.write(first.ref, events, marks_of(events))
    with clearml_server.store.lock:
        clearml_server.store.projects.clear()
    events = [second.started()]
    await sink.write(second.ref, events, marks_of(events))
    assert task_of(clearml_server, second.ref)["project"] == clearml_server.project("digits")["id"]


async def test_a_quiet_run_is_kept_alive_and_begun_again_after_the_watchdog(
    sink: LiveSink, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    feed = Feed("quiet", "digits")
    first = [feed.started()]
    await sink.write(feed.ref, first, marks_of(first))
    key = task_of(clearml_server, feed.ref)["id"]
    task_of(clearml_server, feed.ref)["last_update"] = "2000-01-01"
    await sink.keep_alive(feed.ref)
    assert clearml_server.stop_silent_tasks("2001-01-01") == []

    assert clearml_server.stop_silent_tasks(TOMORROW) == [key]
    told: list[tuple[RunRef, str]] = []
    # The run need not be open.
    other = make_live(clearml_server, tmp_path)
    other.tell_stops_to(lambda run, reason: told.append((run, reason)))
    await other.keep_alive(feed.ref)
    assert clearml_server.status(key) == "in_progress"

    clearml_server.stop_silent_tasks(TOMORROW)
    await other.open_run(feed.ref)
    more = [feed.metrics(["loss"], range(3))]
    await other.write(feed.ref, more, marks_of(first, more))
    assert clearml_server.status(key) == "in_progress"
    assert told == []
    await other.keep_alive(Feed("nobody", "digits").ref)
    await other.close()


async def test_a_task_that_was_silent_for_long_is_looked_at_before_it_is_written_to(
    clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    now = 0.0
    sink = make_live(clearml_server, tmp_path, lambda: now)
    feed = Feed("silent", "digits")
    first = [feed.started()]
    await sink.write(feed.ref, first, marks_of(first))
    key = task_of(clearml_server, feed.ref)["id"]
    clearml_server.stop_silent_tasks(TOMORROW)
    now = 7300.0
    more = [feed.metrics(["loss"], range(3))]
    await sink.write(feed.ref, more, marks_of(first, more))
    await sink.close()
    assert clearml_server.status(key) == "in_progress"


async def test_a_person_who_stops_a_task_is_heard_once_and_not_overruled(
    sink: LiveSink, clearml_server: ClearmlServer
) -> None:
    feed = Feed("aborted", "digits")
    first = [feed.started()]
    await sink.write(feed.ref, first, marks_of(first))
    task = task_of(clearml_server, feed.ref)
    told: list[tuple[RunRef, str]] = []
    sink.tell_stops_to(lambda run, reason: told.append((run, reason)))
    task["status"], task["status_message"] = "stopped", "Stopped by Ada"
    await sink.keep_alive(feed.ref)
    await sink.keep_alive(feed.ref)
    assert told == [(feed.ref, "stopped in ClearML")]
    more = [feed.metrics(["loss"], range(3))]
    await sink.write(feed.ref, more, marks_of(first, more))
    assert clearml_server.status(task["id"]) == "stopped"
    assert len(clearml_server.scalars(task["id"])["loss", "loss"]) == 3
    end = [feed.finished()]
    await sink.write(feed.ref, end, marks_of(first, more, end))
    assert clearml_server.status(task["id"]) == "completed"
    await sink.keep_alive(feed.ref)
    assert len(told) == 1
