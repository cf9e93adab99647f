"""A worker killed at any of its calls to ClearML: what the next one makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bus.artifacts import ArtifactStore
from bus.errors import RetryableSinkError
from bus.kinds import Artifact, Checkpoint, Image, NonFinite, Params, Plot, Summary
from bus.sinks import Marks
from tests.fixtures.feed import Feed, marks_of
from tests.integration.clearml_feed import QUIET, make_live, task_of

if TYPE_CHECKING:
    from bus.events import Event
    from tests.fixtures.clearml.server import ClearmlServer

pytestmark = QUIET


def whole_run(feed: Feed, folder: Path) -> list[Event]:
    """One event of everything that has a place."""
    store = ArtifactStore((folder / "store").as_uri())
    file = folder / "best.pt"
    file.write_text("weights")
    blob, url = feed.stored(store, file)
    return [
        feed.started(tags={"team": "vision"}, notes="a note", config={"a": 1}),
        feed.event("params", Params("General", {"lr": 0.1})),
        feed.metrics(["train/loss"], range(700)),
        feed.metrics(["odd"], range(3), NonFinite.NAN),
        feed.event("summary", Summary({"acc": 0.9})),
        feed.event("image", Image("val", "batch0", blob, 1), url),
        feed.event("plot", Plot("results", "all", blob), url),
        feed.event("checkpoint", Checkpoint(blob, epoch=1, is_best=True), url),
        feed.event("artifact", Artifact("data/x.bin", blob), url),
        feed.finished(),
    ]


def what_is_there(server: ClearmlServer, feed: Feed) -> dict[str, Any]:
    task = task_of(server, feed.ref)
    key = task["id"]
    params = server.hyperparams(key)
    return {
        "status": task["status"],
        "tags": sorted(task["tags"])[0],
        "comment": task["comment"],
        "configuration": list(task["configuration"]),
        "params": params["General"],
        "left out": json.loads(params["properties"]["trainbus.nonfinite"])["odd/odd"]["count"],
        "scalars": len(server.scalars(key)["train", "loss"]),
        "single values": server.single_values(key),
        "images": list(server.images(key)),
        "plots": list(server.plots(key)),
        "models": {role: server.file(one["uri"]) for role, one in server.models(key).items()},
        "artifacts": [one["key"] for one in task["execution"]["artifacts"]],
        "models made": sum(one["task"] == key for one in server.store.models.values()),
        "projects": len(server.store.projects),
    }


@pytest.mark.parametrize("is_done", [True, False])
async def test_a_worker_killed_at_any_call_leaves_what_the_next_makes_whole(
    clearml_server: ClearmlServer, tmp_path: Path, is_done: bool
) -> None:
    found: list[dict[str, Any]] = []
    is_whole = False
    while not is_whole:
        feed = Feed(f"killed at {len(found)}", "digits")
        events = whole_run(feed, tmp_path)
        first = make_live(clearml_server, tmp_path)
        await first.open_run(feed.ref)
        clearml_server.faults.drop("*", 1, is_done=is_done, skip=len(found))
        try:
            await first.write(feed.ref, events, marks_of(events))
            is_whole = True
        except RetryableSinkError:
            await first.close()
        clearml_server.faults.clear()
        other = make_live(clearml_server, tmp_path)
        marks = await other.open_run(feed.ref)
        assert marks in (Marks(), marks_of(events))
        if marks == Marks():
            await other.write(feed.ref, events, marks_of(events))
        assert await other.open_run(feed.ref) == marks_of(events)
        await other.close()
        found.append(what_is_there(clearml_server, feed))
    await first.close()
    assert len(found) > 20
    assert found[-1]["scalars"] == 700
    assert found[-1]["status"] == "completed"
    assert (found[-1]["models"], found[-1]["models made"]) == ({"best": b"weights"}, 1)
    assert all(one == {**found[-1], "tags": one["tags"]} for one in found)
    assert len(clearml_server.tasks()) == len(found)
