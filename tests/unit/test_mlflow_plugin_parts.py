"""The parts of the MLflow plugin that need no run: names, remembered points, kept copies."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import EventError
from publishers.integrations.mlflow import names
from publishers.integrations.mlflow.files import StepImage, step_image
from publishers.integrations.mlflow.kept import GoneError, Kept
from publishers.integrations.mlflow.points import Point, Points

EXPERIMENT_ID = re.compile(r"^[a-zA-Z0-9][\w\-]{0,63}$", re.ASCII)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_an_experiment_id_is_one_for_mlflow_and_says_its_name_where_it_fits(name: str) -> None:
    identifier = names.experiment_id(name)
    assert EXPERIMENT_ID.match(identifier)
    assert names.experiment_name(identifier) in {name, None}
    if name.isascii() and name.isalnum():
        assert names.experiment_name(identifier) == name


def test_the_default_experiment_is_mlflows() -> None:
    assert names.experiment_id("Default") == "0"
    assert names.experiment_name("0") == "Default"
    assert names.experiment_name("1") is None
    assert names.experiment_name("p-_") is None


def test_a_long_name_gets_an_id_of_its_own() -> None:
    one, other = names.experiment_id("a" * 70), names.experiment_id("a" * 71)
    assert one != other and one.startswith("h-")
    with pytest.raises(EventError):
        names.experiment_id("\ud800")


@given(st.lists(st.sampled_from(["a b", "ä", "x.y", "%41", "#", "?"]), max_size=3))
def test_an_artifact_address_is_read_back(levels: list[str]) -> None:
    uri = names.artifact_uri("runs/r 1")
    assert names.place_of(uri) == names.Place("runs/r 1", "")
    assert names.place_of("/".join([uri, *levels])) == names.Place("runs/r 1", "/".join(levels))


@pytest.mark.parametrize(
    "uri",
    ["s3://runs/r/artifacts", "trainbus-artifacts:/runs/r", "trainbus-artifacts:/x/y/artifacts"],
)
def test_other_addresses_are_none_of_ours(uri: str) -> None:
    assert names.place_of(uri) is None


def test_a_path_that_leads_out_is_refused() -> None:
    assert names.join("a//b/", None, "./c") == "a/b/c"
    with pytest.raises(ValueError, match="leads out"):
        names.join("a", "../../b")


def test_the_picture_of_a_step_is_told_by_its_name() -> None:
    uuid = "0b5e7a3c-3f3e-4d8e-9a55-0a1b2c3d4e5f"
    path = f"images/val~dogs+step+3+timestamp+1700000000000+{uuid}"
    assert step_image(f"{path}.png") == StepImage("val/dogs", 3, False)
    assert step_image(f"{path}+compressed.webp") == StepImage("val/dogs", 3, True)
    assert step_image("images/dogs.png") is None
    assert step_image(f"{path}.png".replace("+", "%")) == StepImage("val/dogs", 3, False)


def test_the_latest_point_is_that_of_the_highest_step() -> None:
    points = Points()
    for point in (Point(5, 1, 0.5), Point(9, 0, 0.9), Point(5, 1, 0.7), Point(5, 1, 0.6)):
        points.add("m", point)
    assert dict(points.latest()) == {"m": Point(5, 1, 0.7)}
    assert points.of("m")[1] == Point(9, 0, 0.9)
    assert points.of("other") == []


def test_a_point_is_known_by_time_step_and_value() -> None:
    points = Points()
    points.add("m", Point(5, 1, 0.5))
    points.add("m", Point(5, 2, 0.5))
    assert points.has("m", Point(5, 2, 0.5))
    assert not points.has("m", Point(5, 2, 0.6))
    assert not points.has("m", Point(6, 2, 0.5))
    assert not points.has("other", Point(5, 2, 0.5))


def test_old_points_are_forgotten_beyond_a_limit() -> None:
    points = Points(max_points=10)
    for step in range(25):
        points.add("m", Point(step, step, 0.0))
    assert [point.step for point in points.of("m")][-5:] == [20, 21, 22, 23, 24]
    assert 5 <= len(points.of("m")) <= 10


def test_a_time_beyond_64_bits_leaves_the_others_whole() -> None:
    points = Points()
    points.add("m", Point(1, 1, 1.0))
    with pytest.raises(OverflowError):
        points.add("m", Point(2**63, 2, 2.0))
    assert points.of("m") == [Point(1, 1, 1.0)]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_copy_stays_as_it_was(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "spool")
    file = write(tmp_path / "a.txt", b"first")
    copy = kept.add("runs/r", "x/a.txt", file)
    file.write_bytes(b"second")
    assert copy is not None
    assert kept.find("runs/r", "x/a.txt").read_bytes() == copy.read_bytes() == b"first"
    with pytest.raises(KeyError):
        kept.find("runs/r", "a.txt")
    kept.close()
    assert list((tmp_path / "spool" / "kept").iterdir()) == []


def test_beyond_the_budget_the_oldest_go_but_not_what_the_bus_has_not(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "spool", budget_bytes=250)
    model = write(tmp_path / "model" / "MLmodel", b"m" * 150).parent
    assert kept.add("models/m", "", model) is not None
    for name in "abc":
        copy = kept.add("runs/r", name, write(tmp_path / name, b"x" * 40))
        assert copy is not None
        kept.release("runs/r", [copy])
    assert kept.folder("models/m") is not None
    assert kept.find("runs/r", "c").exists()
    with pytest.raises(GoneError):
        kept.find("runs/r", "a")
    assert set(kept.files("runs/r")) == {"a", "b", "c"}
    huge = kept.add("runs/r", "huge", write(tmp_path / "huge", b"x" * 251))
    assert huge is not None and huge.exists()
    kept.release("models/m")
    assert kept.folder("models/m") is None
    kept.release("runs/r", [huge])
    assert not huge.exists()


def test_a_folder_in_several_pieces_is_put_together(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "spool")
    kept.add("models/m", "", write(tmp_path / "one" / "MLmodel", b"m").parent)
    kept.add("models/m", "data/w", write(tmp_path / "w", b"w"))
    folder = kept.folder("models/m")
    assert folder is not None
    assert (folder / "MLmodel").read_bytes() == b"m"
    assert (folder / "data/w").read_bytes() == b"w"


def test_a_spool_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    kept = Kept(write(tmp_path / "file", b""))
    assert kept.add("runs/r", "a", write(tmp_path / "a", b"x")) is None
    with pytest.raises(GoneError):
        kept.find("runs/r", "a")


def test_the_copies_of_a_killed_process_go_with_the_next(tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib\n"
        "from publishers.integrations.mlflow.kept import Kept\n"
        "kept = Kept(pathlib.Path(sys.argv[1]))\n"
        "kept.add('runs/r', 'a', pathlib.Path(sys.argv[2]))\n"
        "print(len(list((pathlib.Path(sys.argv[1]) / 'kept').iterdir())), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    spool, file = tmp_path / "spool", write(tmp_path / "a", b"x")
    alive = Kept(spool)
    alive.add("runs/r", "a", file)
    for _ in range(2):
        killed = subprocess.run(
            [sys.executable, "-c", program, str(spool), str(file)],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=False,
        )
        assert killed.stdout.strip() == b"2", killed.stderr
    assert alive.find("runs/r", "a").read_bytes() == b"x"
