"""Names as ClearML takes them."""

from __future__ import annotations

import hashlib
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subscribers.clearml.names import (
    PROPERTIES,
    event_key,
    file_path,
    level,
    metric_and_variant,
    model_name,
    param_name,
    project_name,
    run_tag,
    section_name,
    suffix_of,
    task_folder,
    task_name,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
colliding = st.text("ab-/x", min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("train/box_loss", ("train", "box_loss")),
        ("metrics/mAP50-95(B)", ("metrics", "mAP50-95(B)")),
        ("a/b/c", ("a", "b/c")),
        ("loss", ("loss", "loss")),
        ("Epoch Time", ("Epoch Time", "Epoch Time")),
        ("/a", ("/a", "/a")),
        ("a/", ("a/", "a/")),
        ("/", ("/", "/")),
    ],
)
def test_a_metric_is_split_at_its_first_slash(name: str, pair: tuple[str, str]) -> None:
    assert metric_and_variant(name) == pair


def event_id(name: str, iteration: int = 7) -> str:
    """As the server names a scalar."""
    metric, variant = metric_and_variant(name)
    key = event_key(metric)
    parts = ["task", str(iteration), metric, variant, *([key] if key else [])]
    return hashlib.md5("-".join(parts).encode(), usedforsecurity=False).hexdigest()


def test_names_that_join_to_one_text_stay_apart() -> None:
    names = ["a-b/c", "a/b-c", "loss", "loss/loss", "loss/loss/loss", "x-x", "x/x-x-x", "x-x/x-x"]
    assert len({event_id(name) for name in names}) == len(names)
    assert event_id("1/2", 3) != event_id("2", 31)
    assert event_key("train") is None


@given(st.lists(colliding | texts, unique=True, max_size=20))
def test_no_two_metrics_become_one(names: list[str]) -> None:
    assert len({metric_and_variant(name) for name in names}) == len(names)
    assert len({event_id(name) for name in names}) == len(names)


def test_all_short_names_that_could_collide_stay_apart() -> None:
    names = ["".join(letters) for size in range(1, 6) for letters in product("a-/", repeat=size)]
    assert len({event_id(name) for name in names}) == len(names)


@pytest.mark.parametrize("project", ["digits", "Team A/digits", "a.b/c-d-e", "ünï"])
def test_a_sound_project_keeps_its_name(project: str) -> None:
    assert project_name(project) == project


@pytest.mark.parametrize(
    "project", ["P1", "a//bcd", "/abc", "abc/", " abc", "abc/x", "ab/cde", "\0abc", "/", " "]
)
def test_a_project_that_clearml_would_change_or_refuse_is_changed_here(project: str) -> None:
    changed = project_name(project)
    assert changed != project
    assert changed == project_name(project)
    assert_is_sound_project(changed)


@given(texts, texts)
def test_no_two_projects_become_one(first: str, second: str) -> None:
    assert (project_name(first) == project_name(second)) is (first == second)
    assert_is_sound_project(project_name(first))


def assert_is_sound_project(name: str) -> None:
    parts = name.split("/")
    assert all(len(part) >= 3 and part == part.strip() for part in parts)
    assert len(parts) <= 10
    assert len(name) <= 250


def test_a_deep_project_is_folded_into_ten_levels() -> None:
    assert_is_sound_project(project_name("/".join(f"level{number}" for number in range(15))))


@pytest.mark.parametrize(
    ("name", "task"),
    [("mlp", "mlp"), ("r1", "run r1"), ("  ", "run"), ("a\0b", "a-b"), (" x y ", "x y")],
)
def test_tasks_and_models_have_names_of_three_characters_or_more(name: str, task: str) -> None:
    assert task_name(name) == task
    assert len(model_name(name)) >= 3
    assert len(task_name("x" * 2000)) == 250


def test_runs_have_tags_of_their_own() -> None:
    assert run_tag("r1") == "trainbus-run:r1"
    odd = [" r1", "r1 ", "r\x001", "r-1", "x" * 300, "x" * 301]
    assert len({run_tag(run) for run in ["r1", *odd]}) == len(odd) + 1
    assert all(len(run_tag(run)) < 300 for run in odd)


def test_a_user_cannot_set_a_property_of_the_sink() -> None:
    assert section_name("Properties") == PROPERTIES
    assert param_name(PROPERTIES, "trainbus.ranks") == "user.trainbus.ranks"
    assert param_name(PROPERTIES, "team") == "team"
    assert param_name("General", "trainbus.ranks") == "trainbus.ranks"
    assert param_name("General", " lr ") != param_name("General", "lr") == "lr"
    assert param_name("General", "  ").strip()
    assert section_name(" ").strip()


@given(texts, texts)
def test_no_two_levels_of_a_path_become_one(first: str, second: str) -> None:
    assert (level(first) == level(second)) is (first == second)
    for name in (first, second):
        assert level(name).isascii()
        assert "/" not in level(name)
        assert level(name) not in {"", ".", ".."}
        assert len(level(name)) <= 150


def test_paths_keep_what_people_read() -> None:
    assert level("val_batch0 (1).jpg") == "val_batch0 (1).jpg"
    assert level("ä.jpg").endswith(".jpg")
    assert level("../x") not in {"..", "x"}
    assert file_path("data/labels.csv") == "data/labels.csv"
    assert ".." not in file_path("../../etc").split("/")
    assert task_folder("Team/digits", "mlp", "0f") == "Team/digits/mlp.0f"
    assert [suffix_of(name) for name in ("a.tar.gz", "best.pt", "x", ".env", "a.b c.png")] == [
        ".tar.gz",
        ".pt",
        "",
        "",
        ".png",
    ]
