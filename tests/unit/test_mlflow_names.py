"""Names as MLflow takes them."""

from __future__ import annotations

import posixpath
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from subscribers.mlflow import names

any_name = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
likely = st.text(st.sampled_from("ab./ -:(?x0#"), min_size=1, max_size=12)
some_name = likely | any_name


def is_taken_by_mlflow(name: str) -> bool:
    """The check of mlflow.utils.validation, as of 3.17."""
    norm = posixpath.normpath(name)
    return bool(
        re.match(r"^[/\w.\- :]*$", name)
        and norm == name
        and norm != "."
        and not norm.startswith(("..", "/"))
        and len(name) <= 250
    )


@pytest.mark.parametrize(
    "name",
    ["loss", "train/loss", "lr/pg0", "metrics/mAP50-95 B", "ünï/çødé", "a..b", "x:y", "x" * 250],
)
def test_a_good_name_stays_as_it_is(name: str) -> None:
    assert names.safe_name(name) == name


@given(some_name)
@example("..foo" * 100)
@example("a\n")
@example("/" * 300)
@example("a/" * 200)
def test_mlflow_takes_every_name(name: str) -> None:
    assert is_taken_by_mlflow(names.safe_name(name))
    assert is_taken_by_mlflow(names.user_tag(name))
    assert is_taken_by_mlflow(names.name_tag(names.safe_name(name)))


@given(some_name, some_name)
@example("loss (train)", "loss [train]")
@example("a/b", "a//b")
@example("a", "a ")
def test_two_names_never_become_one(one: str, other: str) -> None:
    assume(one != other)
    assert names.safe_name(one) != names.safe_name(other)
    assert names.user_tag(one) != names.user_tag(other)
    assert names.model_name(one) != names.model_name(other)
    assert names.registered_name(one) != names.registered_name(other)
    assert names.experiment_name(one) != names.experiment_name(other)
    assert names.level(one) != names.level(other)


@given(some_name)
def test_a_name_that_looks_like_a_changed_one_meets_none(name: str) -> None:
    for change in (names.safe_name, names.level, names.model_name, names.registered_name):
        changed = change(name)
        assume(changed != name)
        assert change(changed) != changed


@given(some_name)
def test_a_user_cannot_touch_the_tags_of_the_sink(name: str) -> None:
    assert not names.user_tag(f"trainbus.{name}").startswith("trainbus.")
    assert names.user_tag("mlflow.runName") != "mlflow.runName"


@given(some_name)
@example("%2e%2e")
@example("é" * 200)
@example("a" * 300 + ".png")
def test_a_level_is_one_plain_file_name(name: str) -> None:
    level = names.level(name)
    assert is_taken_by_mlflow(level)
    assert not set("/#?%:\\\0") & set(level)
    assert len(level.encode()) <= 255


@given(some_name)
def test_an_artifact_path_stays_where_it_is_put(path: str) -> None:
    safe = names.artifact_path(path)
    assert is_taken_by_mlflow(safe)
    assert all(names.level(part) for part in safe.split("/"))


def test_artifact_paths_keep_levels_and_suffixes() -> None:
    assert names.artifact_path("/a/b c//d.txt") == "a/b c/d.txt"
    assert re.fullmatch(r"a/name-x[0-9a-f]{10}/c", names.artifact_path("a/../c"))
    assert re.fullmatch(r"a-b-x[0-9a-f]{10}\.png", names.level("a?b.png"))


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.png", ".png"), ("a", ""), (".hidden", ""), ("a.b/c", ""), ("a.p?g", "")],
)
def test_suffixes(name: str, suffix: str) -> None:
    assert names.suffix_of(name) == suffix


def test_model_names() -> None:
    assert names.model_name("best model-1") == "best model-1"
    assert re.fullmatch(r"mlp-v1-x[0-9a-f]{10}", names.model_name("mlp.v1"))
    assert names.registered_name("mlp.v1") == "mlp.v1"
    assert re.fullmatch(r"a-b-x[0-9a-f]{10}", names.registered_name("a/b"))
