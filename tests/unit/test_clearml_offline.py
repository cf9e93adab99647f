"""What a session holds, and where: the pure parts of the offline ClearML sink."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.config import Settings
from bus.errors import PermanentSinkError
from bus.events import Event
from bus.kinds import Image, Model, Params, RunStarted
from bus.sinks import Marks, PointCounter, RunRef
from subscribers.clearml.media import picture_size
from subscribers.clearml.offline import blobs, session
from subscribers.clearml.offline.layout import Layout, plain
from subscribers.clearml.offline.lines import MAX_EVENTS, joined, picture_event, point_events
from subscribers.clearml.offline.sink import FOLDER_VARIABLE, OfflineSink
from subscribers.clearml.offline.state import STATE_VERSION, ModelEntry, SessionState, task_json
from subscribers.clearml.options import RunOptions
from subscribers.clearml.plan import plan
from subscribers.clearml.points import NonFiniteNotes
from tests.fixtures.clearml.sessions import PICTURE
from tests.fixtures.clearml.shape import differences
from tests.fixtures.events import EXAMPLES, example, names
from tests.fixtures.feed import Feed, marks_of
from tests.fixtures.missing import missing

RUN = RunRef("project", "run 1", "name")
LAYOUT = Layout(Path("/sessions"), RUN)

_SDK_ONLY = {"missing allow_locked", "missing method", "missing model_event"}
"""Defaults that the SDK's request classes write out; the server knows them."""


@given(names, names)
def test_two_names_never_lie_in_one_place(first: str, second: str) -> None:
    assert (plain(first) == plain(second)) == (first == second)


@given(st.text(max_size=400), names)
def test_a_path_needs_no_quoting_and_cannot_leave(name: str, run: str) -> None:
    layout = Layout(Path("/sessions"), RunRef(name or "p", run, name or "r"))
    paths = [
        layout.picture_path(name, name, 1, name),
        layout.artifact_path(name),
        layout.model_path(name, ".pt"),
    ]
    for path in paths:
        levels = path.split("/")
        assert set("".join(levels)) <= set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
        )
        assert not {"", ".", ".."} & set(levels)
        assert max(map(len, levels)) <= 200


def test_the_same_run_is_the_same_session() -> None:
    assert Layout(Path("/a"), RUN).id == Layout(Path("/b"), RunRef("project", "run 1", "?")).id
    assert Layout(Path("/a"), RUN).id != Layout(Path("/a"), RunRef("other", "run 1", "name")).id


def test_a_pictures_path_has_two_levels_before_the_session() -> None:
    layout = Layout(Path("/sessions"), RunRef("team/digits", "run 1", "a/b c"))
    before, _ = layout.picture_path("m", "v", 3, "x.png").split(f".{layout.id}/")
    assert before.count("/") == 1


def test_scalars_have_the_shape_the_sdk_sends() -> None:
    events = [Feed("run 1", "project").metrics(["train/loss", "a-b/c"], range(2))]
    lines = list(point_events(LAYOUT.id, events, NonFiniteNotes()))
    found = [differences("events.add_batch", line) for line in lines]
    # The key keeps "a-b" of "c" and "a" of "b-c" apart.
    assert found == [_SDK_ONLY, _SDK_ONLY | {"extra key"}] * 2


@pytest.mark.parametrize("kind", ["image", "plot"])
def test_pictures_have_the_shape_the_sdk_sends(kind: str) -> None:
    (picture,) = plan([example(kind)]).pictures
    path = LAYOUT.picture_path(picture.metric, picture.variant, picture.iteration, "x.png")
    event = picture_event(LAYOUT, picture, path, (640, 256))
    assert differences("events.add_batch", event) == _SDK_ONLY


def test_hyperparameters_have_the_shape_the_sdk_sends() -> None:
    state = SessionState(STATE_VERSION)
    state.apply(plan([example("params", data=Params("General", {"lr": 0.1}))]), Marks())
    task = task_json(state, LAYOUT)
    body = {"task": "t", "force": True, "tags": task["tags"], "method": "get"}
    body["hyperparams"] = {"General": task["hyperparams"]["General"]}
    assert differences("tasks.edit", body) == set()


def test_a_line_holds_what_the_server_writes_at_a_time() -> None:
    events = [{"iter": n} for n in range(2 * MAX_EVENTS + 1)]
    lines = list(joined(events))
    assert [len(json.loads(line)) for line in lines] == [MAX_EVENTS, MAX_EVENTS, 1]
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)


def test_every_text_is_ascii() -> None:
    assert b"".join(joined([{"metric": "ü\N{GRINNING FACE}"}])).isascii()


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_the_state_comes_back_as_it_was_written(kind: str) -> None:
    state = SessionState(STATE_VERSION)
    event = example(kind)
    state.apply(plan([event]), marks_of([event]))
    decoded = msgspec.json.decode(msgspec.json.encode(state), type=SessionState)
    assert decoded == state
    assert decoded.read_marks() == marks_of([event])
    json.dumps(task_json(state, LAYOUT), allow_nan=False)


def test_what_the_live_sink_remembers_stands_in_the_task_under_the_same_names() -> None:
    try:
        from subscribers.clearml import tasks
    except ModuleNotFoundError:
        missing("clearml", "pip install 'trainbus[clearml]'")
    feed = Feed("run 1", "project")
    events = [feed.started(tags={"a": "b"}, options={"clearml": {"task_type": "testing"}})]
    events.append(feed.metrics(["loss"], range(1), float("inf")))
    state = SessionState(STATE_VERSION)
    state.apply(plan(events), marks_of(events))
    state.nonfinite = "{}"
    properties = task_json(state, LAYOUT)["hyperparams"]["properties"]
    wanted = {tasks.LIFE, tasks.NON_FINITE, tasks.OPTIONS, tasks.TAGS}
    assert wanted | {"trainbus.project", "trainbus.run"} <= properties.keys()
    assert any(name.startswith("trainbus.marks.") for name in properties)
    assert task_json(state, LAYOUT)["type"] == "testing"


def test_an_output_destination_of_the_run_goes_before_that_of_the_sink(tmp_path: Path) -> None:
    layout = Layout(tmp_path, RUN, "http://files")
    state = SessionState(STATE_VERSION)
    blob = example("model")
    (model,) = plan([blob]).models
    state.models[model.role] = ModelEntry(name="best", file="models/best/best.pt")
    assert task_json(state, layout)["offline_output_models"][0]["output_uri"] == "http://files"
    started = RunStarted(options={"clearml": {"output_destination": "s3://bucket/x"}})
    state.apply(plan([example("run_started", data=started)]), Marks())
    task = task_json(state, layout)
    assert task["offline_output_models"][0]["output_uri"] == "s3://bucket/x"
    assert task["output_dest"] == "s3://bucket/x"


def test_weights_in_a_store_that_all_can_read_may_stay_there() -> None:
    data = EXAMPLES["model"]
    assert isinstance(data, Model)
    event = example("model", dataref="s3://bucket/ab/cd")
    (model,) = plan([event]).models
    options = RunOptions(store_urls=True)
    entry = blobs.keep_model(LAYOUT, model, options)
    assert entry is not None
    assert (entry.url, entry.file) == ("s3://bucket/ab/cd", "")
    state = SessionState(STATE_VERSION, models={"best": entry})
    weights = task_json(state, LAYOUT)["offline_output_models"][0]["weights"]
    assert weights["register_uri"] == "s3://bucket/ab/cd"
    assert weights["weights_filename"] is None


@pytest.mark.parametrize(
    ("content", "size"), [(PICTURE, (640, 256)), (b"GIF89a?", (640, 480)), (b"", (640, 480))]
)
def test_the_size_of_a_picture_is_read_where_it_can_be(
    tmp_path: Path, content: bytes, size: tuple[int, int]
) -> None:
    (tmp_path / "picture").write_bytes(content)
    assert picture_size(tmp_path / "picture", "picture") == size
    assert picture_size(tmp_path / "picture", "page.HTML") is None


def test_the_folder_is_the_users_or_in_the_data_folder(tmp_path: Path) -> None:
    environ = {"TRAINBUS_HOME": str(tmp_path)}
    settings = Settings.from_environment(environ)
    assert OfflineSink.from_environment(settings, environ).root == tmp_path / "clearml"
    environ[FOLDER_VARIABLE] = "~/sessions"
    assert OfflineSink.from_environment(settings, environ).root == Path.home() / "sessions"
    assert isinstance(OfflineSink(tmp_path), PointCounter)


def counting(function: Callable[..., Any], calls: list[object]) -> Callable[..., Any]:
    def counted(*arguments: object) -> Any:
        calls.append(arguments)
        return function(*arguments)

    return counted


def test_a_hundred_thousand_points_cost_no_more_syncs_than_ten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = []
    for count in (10, 100_000):
        calls: list[object] = []
        monkeypatch.setattr(os, "fsync", counting(lambda _: None, calls))
        feed = Feed(f"run of {count}", "project")
        events: list[Event] = [feed.metrics(["a", "b"], range(count // 2))]
        layout = Layout(tmp_path, feed.ref)
        session.write(layout, events, marks_of(events), 0)
        costs.append(len(calls))
        state = session.read_state(layout)
        assert state is not None
        lines = (layout.folder / session.METRICS).read_bytes().splitlines()
        assert len(lines) == -(-count // MAX_EVENTS)
        assert sum(len(json.loads(line)) for line in lines) == count
    assert costs[0] == costs[1]


def test_it_runs_where_clearml_is_not_installed(tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
for name in ("clearml", "PIL", "aiohttp", "requests"):
    sys.modules[name] = None
from bus.config import Settings
from bus.errors import PermanentSinkError
from subscribers.clearml.sink import create
environ = {{"TRAINBUS_HOME": {str(tmp_path)!r}, "TRAINBUS_CLEARML": "offline"}}
sink = create(Settings.from_environment(environ), environ)
from tests.fixtures.feed import Feed, marks_of
feed = Feed("run 1", "project")
events = [feed.started(), feed.metrics(["loss"], range(3)), feed.finished()]
async def write():
    await sink.write(feed.ref, events, marks_of(events))
    print((await sink.contents(feed.ref)).points)
    await sink.close()
asyncio.run(write())
"""
    root = str(Path(__file__).parents[2])
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": root, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "3\n", done.stderr


def test_a_picture_that_is_a_folder_is_refused() -> None:
    data = EXAMPLES["image"]
    assert isinstance(data, Image)
    folder = msgspec.structs.replace(data.blob, is_folder=True)
    event = example("image", data=msgspec.structs.replace(data, blob=folder))
    (picture,) = plan([event]).pictures
    with pytest.raises(PermanentSinkError, match="is a folder"):
        blobs.keep_picture(LAYOUT, picture)
