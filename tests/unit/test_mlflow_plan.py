"""What a batch of events becomes in MLflow."""

from __future__ import annotations

from typing import Any

import pytest

from bus.errors import PermanentSinkError
from bus.events import Event
from bus.kinds import (
    KINDS,
    Blob,
    Checkpoint,
    Git,
    Image,
    KindData,
    Params,
    RunFinished,
    RunStarted,
    Tags,
    World,
)
from bus.lifecycle import RunLife
from subscribers.mlflow.plan import plan
from subscribers.mlflow.sink import _KINDS

BLOB = Blob("last.pt", 3, "0" * 64)


def event(kind: str, data: KindData, time: float = 1.0) -> Event:
    source = "/runs/r/0/1-0-0000000000000000/n"
    return Event(kind, source, 1, "r", "p", "n", time, data, "file:///x")


def params(section: str = "General", **values: object) -> Event:
    return event("params", Params(section, dict(values)))


def test_every_kind_is_planned_for_but_phase_and_console() -> None:
    assert set(KINDS) - _KINDS == {"phase", "console"}


def test_params_look_as_mlflows_own_client_writes_them() -> None:
    values: dict[str, Any] = {
        "f": 1e-3,
        "i": 3,
        "b": True,
        "n": None,
        "s": "x",
        "l": [1, "ä"],
        "d": {"a": 1},
    }
    assert plan([event("params", Params("General", values))]).params == {
        "f": "0.001",
        "i": "3",
        "b": "True",
        "n": "None",
        "s": "x",
        "l": '[1, "ä"]',
        "d": '{"a": 1}',
    }


def test_a_section_is_a_level_of_the_name() -> None:
    assert plan([params(lr=1), params("opt", lr=2)]).params == {"lr": "1", "opt/lr": "2"}


def test_a_param_set_twice_alike_is_one_and_set_differently_is_refused() -> None:
    assert plan([params(lr=1), params(lr=1)]).params == {"lr": "1"}
    with pytest.raises(PermanentSinkError, match="'lr' is '1' and cannot become '2'"):
        plan([params(lr=1), params(lr=2)])


def test_the_last_tag_of_a_name_counts() -> None:
    events = [event("tags", Tags({"a": "1", "b": "2"})), event("tags", Tags({"a": "3"}))]
    assert plan(events).tags == {"a": "3", "b": "2"}


def test_a_changed_name_leaves_its_original_in_a_tag() -> None:
    planned = plan([event("params", Params("General", {"a?": 1}))])
    ((key, _),) = planned.params.items()
    assert planned.tags == {f"trainbus.name.{key}": "a?"}


def test_only_rank_0_speaks_for_the_run() -> None:
    git = Git("abc", "main", "https://example.org/x.git", is_dirty=True)
    zero = RunStarted(user="ada", program="train.py", host="h0", git=git, world=World(2, 2))
    one = RunStarted(rank=1, user="ada", host="h1", world=World(2, 2), config={"a": 1})
    planned = plan([event("run_started", zero), event("run_started", one)])
    assert planned.tags["mlflow.user"] == "ada"
    assert planned.tags["mlflow.source.git.commit"] == "abc"
    assert planned.tags["trainbus.git.dirty"] == "true"
    assert (planned.tags["trainbus.host"], planned.tags["trainbus.host.rank1"]) == ("h0", "h1")
    assert [text.path for text in planned.texts] == ["config.rank1.json"]


def test_pictures_with_a_step_have_its_name_and_others_their_own() -> None:
    blob = Blob("val_batch0.jpg", 3, "0" * 64)
    events = [
        event("image", Image("val/labels", "a/b", blob, step=10)),
        event("image", Image("val", "labels", blob)),
    ]
    first, second = (upload.path for upload in plan(events).uploads)
    assert first.startswith("images/val/labels/a-b-x")
    assert first.endswith("/10.jpg")
    assert second == "images/val/labels/val_batch0.jpg"


def test_checkpoints_lie_by_epoch_and_tags_name_the_best() -> None:
    events = [
        event("checkpoint", Checkpoint(BLOB, 3, is_best=True, fitness=0.5)),
        event("checkpoint", Checkpoint(BLOB, 4)),
    ]
    planned = plan(events)
    paths = ["checkpoints/epoch_3/last.pt", "checkpoints/epoch_4/last.pt"]
    assert [upload.path for upload in planned.uploads] == paths
    assert planned.tags["trainbus.checkpoint.best"] == paths[0]
    assert planned.tags["trainbus.checkpoint.last"] == paths[1]


def test_starts_and_ends_are_reported_to_the_life_of_the_run() -> None:
    events = [
        event("run_started", RunStarted(world=World(ranks=1))),
        event("run_finished", RunFinished("failed", 2, error="x" * 9000, dropped={"a": 1}), 5.0),
    ]
    planned = plan(events)
    life = RunLife()
    for report in planned.reports:
        report(life)
    outcome = life.outcome()
    assert outcome is not None
    assert (outcome.status, outcome.end_seconds) == ("failed", 5.0)
    assert planned.tags["trainbus.error"].endswith("whole in tags/trainbus.error.txt)")
    assert planned.tags["trainbus.dropped"] == '{"a": 1}'
    assert planned.first_seconds == 1.0
    assert plan([]).first_seconds is None


def test_no_text_holds_a_nul() -> None:
    planned = plan([params(a="x\0y"), event("tags", Tags({"t\0": "v\0"}))])
    assert not any("\0" in text for text in [*planned.params.values(), *planned.tags.values()])
