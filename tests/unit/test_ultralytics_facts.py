"""What the Ultralytics integration knows without a training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from publishers.integrations.ultralytics.curves import curves_of
from publishers.integrations.ultralytics.facts import config_of, params_of, project_of_args
from publishers.integrations.ultralytics.pictures import batch_picture, is_whole
from publishers.integrations.ultralytics.record import RunRecord, find_record, split_params
from tests.fixtures.yolotrainer import JPEG, PNG


def test_classes_of_a_folder_are_its_subfolders(tmp_path: Path) -> None:
    for name in ("cat", "ant"):
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "train/readme.txt").touch()
    found = config_of(SimpleNamespace(data=str(tmp_path)))
    assert found["names"] == {"0": "ant", "1": "cat"}


def test_curves_are_thinned_to_101_points() -> None:
    numpy = pytest.importorskip("numpy")
    x = numpy.linspace(0.0, 1.0, 1000)
    data = {"type": "pr_curve", "x": x, "y": [x, 1.0 - x], "ap": [0.5, 0.5]}
    found = curves_of(SimpleNamespace(plots={Path("a.png"): {"data": data}}, validator=None))
    curve = found["pr_curve"]
    assert [len(curve["x"]), len(curve["y"]), len(curve["y"][1])] == [101, 2, 101]
    assert curve["y"][1][0] == pytest.approx(1.0)
    assert curve["ap"] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("environ", "given", "project"),
    [
        ({}, None, "Ultralytics"),
        ({}, "digits", "digits"),
        ({"TRAINBUS_PROJECT": "told"}, "digits", None),
        ({"TRAINBUS_PROJECT": "work", "TRAINBUS_WRAPPER": "1-a"}, "digits", "digits"),
        ({"TRAINBUS_PROJECT": "work", "TRAINBUS_WRAPPER": "1-a"}, None, None),
        ({"TRAINBUS_PROJECT": "told", "TRAINBUS_WRAPPER": "1-a"}, "digits", None),
    ],
)
def test_the_project_is_what_somebody_has_said(
    environ: dict[str, str], given: Any, project: str | None
) -> None:
    assert project_of_args(SimpleNamespace(project=given), environ, "/home/me/work") == project


def test_secrets_of_urls_are_left_out_wherever_they_stand() -> None:
    args = SimpleNamespace(
        source=["rtsp://me:pw@cam/1", "a.jpg"], data="ul://me/set?key=secret", lr0=0.01, freeze=None
    )
    assert params_of(args) == {
        "source": ["rtsp://cam/1", "a.jpg"],
        "data": "ul://me/set",
        "lr0": 0.01,
        "freeze": None,
    }


def test_pictures_of_batches_are_named_as_in_ultralytics_own_callback() -> None:
    picture = batch_picture(Path("runs/val_batch2_labels.jpg"), "Validation")
    assert picture[:3] == ("Validation", "val_labels.jpg", 2)
    assert batch_picture(Path("other.jpg"), "Mosaic")[:3] == ("Mosaic", "other.jpg", 0)


@pytest.mark.parametrize(("name", "content"), [("a.jpg", JPEG), ("a.png", PNG)])
def test_a_picture_is_whole_when_it_has_its_end(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    for end in range(len(content)):
        path.write_bytes(content[:end])
        assert not is_whole(path)
    path.write_bytes(content)
    assert is_whole(path)


def test_the_record_of_a_run_lies_beside_the_weights(tmp_path: Path) -> None:
    record = RunRecord("r1", "squares", "t", 3, {"lr0": 0.01})
    record.write(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    assert find_record(str(tmp_path / "weights/last.pt"), elsewhere) == record
    assert find_record(True, tmp_path) == record
    assert find_record(None, tmp_path) is None
    assert find_record("", tmp_path) is None
    assert find_record(True, elsewhere) is None
    assert [path.name for path in tmp_path.iterdir()] == ["trainbus.json"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"run": "", "project": "p"}', b"\xff"])
def test_a_record_that_is_none_is_passed_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "trainbus.json").write_bytes(content)
    assert find_record(True, tmp_path) is None


def test_params_that_changed_are_told_apart() -> None:
    record = RunRecord("r1", "squares", "t", 1, {"lr0": 0.01, "device": None})
    params = {"lr0": 0.01, "device": "0", "new": 1}
    assert split_params(params, record) == ({"lr0": 0.01, "new": 1}, {"device": "0"})
    assert split_params(params, None) == (params, {})
