"""What a batch of events becomes in ClearML."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import kinds
from bus.errors import PermanentSinkError
from bus.events import Event
from bus.kinds import KINDS as ALL_KINDS
from bus.kinds import Blob, Checkpoint, Git, Model, Params, RunFinished, RunStarted, Tags, World
from bus.lifecycle import RunLife
from subscribers.clearml.options import RunOptions
from subscribers.clearml.params import Param, params_of
from subscribers.clearml.plan import KINDS, Plan, plan, reason_of, tag_text
from tests.fixtures.events import EXAMPLES, example, whole_events

BLOB = Blob("best.pt", 3, "0" * 64)


def started(**fields: Any) -> Plan:
    return plan([example("run_started", data=RunStarted(**fields))])


def test_every_kind_but_phase_has_a_place() -> None:
    assert set(ALL_KINDS) - KINDS == {"phase"}
    for kind in KINDS:
        assert plan([example(kind)]) != plan([])
    assert set(EXAMPLES) >= KINDS


def test_a_start_describes_the_task() -> None:
    result = started(
        tags={"team": "vision", "Ultralytics": ""},
        notes="a note",
        parent="p",
        framework="PyTorch",
        host="h",
        user="ada",
        program="train.py",
        git=Git("abc", "main", "https://example.org/r.git", is_dirty=True),
        config={"epochs": 3},
        options={"clearml": {"task_type": "testing"}, "mlflow": {"x": 1}},
        world=World(2, 4),
    )
    assert result.tags == {"team": "team:vision", "Ultralytics": "Ultralytics"}
    assert (result.comment, result.parent, result.framework) == ("a note", "p", "PyTorch")
    assert result.options == RunOptions(task_type="testing")
    assert result.script == {
        "repository": "https://example.org/r.git",
        "branch": "main",
        "version_num": "abc",
        "entry_point": "train.py",
    }
    assert result.configuration == {"config": '{\n  "epochs": 3\n}'}
    assert result.properties == {
        "trainbus.host": "h",
        "trainbus.user": "ada",
        "trainbus.framework": "PyTorch",
        "trainbus.world": "nodes=2 ranks=4",
        "trainbus.git.dirty": "true",
        "trainbus.parent": "p",
        "trainbus.error": "",
    }
    assert result.is_editing


def test_other_ranks_say_only_what_is_theirs() -> None:
    result = started(rank=2, notes="no", host="h2", config={"a": 1}, program="x.py")
    assert result.comment == ""
    assert result.script == {}
    assert result.options is None
    assert result.properties["trainbus.host.rank2"] == "h2"
    assert list(result.configuration) == ["config.rank2"]


@pytest.mark.parametrize(
    "options",
    [{"task_type": "nonsense"}, {"project": 3}, {"store_urls": "yes"}, {"all_checkpoints": 1}],
)
def test_an_option_that_makes_no_sense_is_refused_and_named(options: dict[str, Any]) -> None:
    with pytest.raises(PermanentSinkError, match=next(iter(options))):
        started(options={"clearml": options})


def test_options_survive_as_text() -> None:
    options = RunOptions("s3://b/x", "testing", "Other", store_urls=True)
    assert RunOptions.parse(str(options)) == options
    assert str(RunOptions()) == ""
    assert RunOptions.parse("") == RunOptions.parse("{") == RunOptions.parse("[]") == RunOptions()
    assert RunOptions.of({"of a later version": 1, "project": None}) == RunOptions()


def test_parameters_are_flat_texts_with_types_as_the_sdk_writes_them() -> None:
    values = {
        "lr0": 0.01,
        "epochs": 3,
        "cos": True,
        "name": "sgd",
        "none": None,
        "empty": {},
        "layers": [1, 2],
        "mixed": [1, "a"],
        "nothing": [],
        "aug": {"hsv": {"h": 0.5}},
    }
    found = {param.name: (param.value, param.type) for param in params_of("General", values)}
    assert found == {
        "lr0": ("0.01", "float"),
        "epochs": ("3", "int"),
        "cos": ("True", "bool"),
        "name": ("sgd", "str"),
        "none": ("", None),
        "empty": ("", None),
        "layers": ("[1, 2]", "list/int"),
        "mixed": ('[1, "a"]', "list"),
        "nothing": ("[]", "list"),
        "aug/hsv/h": ("0.5", "float"),
    }
    assert Param("General", "lr0", "0.01", "float").item == {
        "section": "General",
        "name": "lr0",
        "value": "0.01",
        "type": "float",
        "description": "",
    }
    assert "type" not in Param("General", "none", "").item


def test_of_parameters_of_one_name_the_last_word_counts() -> None:
    events = [
        example("params", data=Params("General", {"lr": 0.1})),
        example("params", data=Params("General", {"lr": 0.2})),
        example("params", data=Params("opt", {"lr": 0.3})),
    ]
    assert {key: param.value for key, param in plan(events).params.items()} == {
        ("General", "lr"): "0.2",
        ("opt", "lr"): "0.3",
    }


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("team", "vision", "team:vision"),
        ("Ultralytics", "", "Ultralytics"),
        ("final", "true", "final"),
        ("__$all", "", "___$all"),
        (" ", "", "_"),
    ],
)
def test_a_tag_is_one_text(name: str, value: str, text: str) -> None:
    assert tag_text(name, value) == text
    assert plan([example("tags", data=Tags({name: value}))]).tags == {name: text}


def test_best_and_final_checkpoints_become_models_and_others_only_when_asked() -> None:
    def checkpoint(**fields: Any) -> Plan:
        return plan([example("checkpoint", data=Checkpoint(BLOB, **fields))])

    best = checkpoint(epoch=3, is_best=True, is_final=True, fitness=0.7)
    assert [(model.role, model.is_kept) for model in best.models] == [
        ("best", True),
        ("final", True),
    ]
    assert best.models[0].metadata == {"epoch": "3", "fitness": "0.7"}
    assert best.properties == {"trainbus.checkpoint.last": "best.pt 3"}
    (other,) = checkpoint(epoch=3).models
    assert (other.role, other.is_kept) == ("epoch 3", False)
    (bare,) = checkpoint(fitness=kinds.NonFinite.NAN).models
    assert (bare.role, bare.metadata) == ("best.pt", {"fitness": "nan"})


def test_a_model_keeps_its_name_and_its_metrics() -> None:
    data = Model(
        "digits", BLOB, "onnx", metrics={"acc": 0.9, "worst": kinds.NonFinite.NAN, "huge": 10**400}
    )
    (model,) = plan([example("model", data=data)]).models
    assert (model.role, model.name) == ("digits", "digits")
    assert model.metadata == {
        "acc": "0.9",
        "worst": "nan",
        "huge": "inf",
        "flavor": "onnx",
    }


def test_pictures_without_a_step_are_of_iteration_zero() -> None:
    image, plot = plan([example("image"), example("plot")]).pictures
    assert (image.metric, image.variant, image.iteration, image.is_plot) == (
        "val",
        "batch0",
        10,
        False,
    )
    assert (plot.iteration, plot.is_plot) == (0, True)


def test_ends_are_reported_with_their_errors() -> None:
    events = [
        example("run_started", data=RunStarted(world=World(ranks=2))),
        example("run_finished", data=RunFinished("failed", 9, "out of memory", {"disk_full": 2})),
        example("run_finished", data=RunFinished("killed", 9, "node is lost", rank=1, loss=1)),
    ]
    result = plan(events)
    life = RunLife()
    for report in result.reports:
        report(life)
    outcome = life.outcome()
    assert outcome is not None
    assert outcome.status == "killed"
    assert reason_of(result.properties) == "out of memory; node is lost"
    assert result.properties["trainbus.error"] == "out of memory"
    assert result.properties["trainbus.error.rank1"] == "node is lost"
    assert result.properties["trainbus.dropped"] == '{"disk_full": 2}'


@given(st.lists(whole_events(), max_size=4))
def test_any_events_make_a_plan_or_are_refused_for_good(events: list[Event]) -> None:
    try:
        result = plan(events)
    except PermanentSinkError:
        return
    assert all(text.strip() for text in result.tags.values())
    assert all(param.section and param.name.strip() for param in result.params.values())
    assert all(
        isinstance(value, str) for model in result.models for value in model.metadata.values()
    )


def test_an_empty_batch_asks_for_nothing() -> None:
    assert plan([]) == Plan()
    assert not plan([]).is_editing


def test_the_reason_names_the_errors_of_all_ranks_in_their_order_and_each_once() -> None:
    properties = {
        "trainbus.error.rank10": "no peer",
        "trainbus.error.rank2": "out of memory",
        "trainbus.error.rank3": "no peer",
        "trainbus.error": "",
        "trainbus.host": "h",
    }
    assert reason_of(properties) == "out of memory; no peer"
