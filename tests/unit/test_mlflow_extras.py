"""What a model event says to MLflow alone: read as far as it is sound."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bus.kinds import Blob, Model
from subscribers.mlflow.extras import read_extras

BLOB = Blob("m", 1, "0" * 64)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def model(said: dict[str, Any]) -> Model:
    return Model("clf", BLOB, options={"mlflow": said})


def test_all_of_it_is_read() -> None:
    extras = read_extras(
        model(
            {
                "params": {"a (b)": "1", "long": "x" * 7000},
                "tags": {"team": "vision", "trainbus.event": "mine"},
                "model_type": "agent",
                "version": {"tags": {"by": "me"}, "description": "why\0"},
                "points": [["acc", 5, 1, 0.5, None, None], ["f1", 6, 2, 1, "d", "g"]],
            }
        )
    )
    assert sorted(len(text) for text in extras.params.values()) == [1, 6000]
    assert not any("(" in name for name in extras.params)
    assert extras.tags["team"] == "vision"
    assert "trainbus.event" not in extras.tags, "the sink's own tags are out of reach"
    assert (extras.model_type, extras.version_tags) == ("agent", {"by": "me"})
    assert extras.description == "why\\0"
    first, second = extras.metrics("m-1")
    assert (first.key, first.timestamp, first.step, first.value) == ("acc", 5, 1, 0.5)
    assert (second.dataset_name, second.dataset_digest, second.model_id) == ("d", "g", "m-1")


def test_points_that_mlflow_would_refuse_or_change_are_left_out() -> None:
    bad: list[Any] = [
        ["nan", 1, 0, float("nan"), None, None],
        ["early", -1, 0, 1.0, None, None],
        ["late", 2**63, 0, 1.0, None, None],
        ["step", 1, 2**63, 1.0, None, None],
        ["", 1, 0, 1.0, None, None],
        ["short", 1, 0],
        "text",
    ]
    assert read_extras(model({"points": bad})).points == []


def test_a_model_without_options_has_none() -> None:
    extras = read_extras(Model("clf", BLOB))
    assert (extras.params, extras.tags, extras.points, extras.model_type) == ({}, {}, [], None)


@given(
    st.dictionaries(st.sampled_from(["params", "tags", "model_type", "version", "points"]), JSON)
)
def test_nothing_that_comes_over_the_network_raises(said: dict[str, Any]) -> None:
    read_extras(model(said)).metrics("m-1")
