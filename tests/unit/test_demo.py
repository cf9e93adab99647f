"""The parts of the demo that decide without any process."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bus.demo.children import Children
from bus.demo.folder import LOCK_NAME, fresh_folder
from bus.demo.play import count_points
from bus.demo.stage import NODES, Progress, Stage, parse_progress
from bus.errors import ConfigError, TrainbusError

STAGE = Stage(Path("/demo"), "mqtt://127.0.0.1:1884", "demo-1", 40)


@pytest.mark.parametrize(
    ("printed", "progress"),
    [
        ("", Progress(0, 0)),
        ("warning: epoch 3\n", Progress(0, 0)),
        ("epoch 1/40 loss 0.5\nepoch 2/40 loss 0.4\n", Progress(2, 40)),
        ("epoch 2/40 loss 0.4\nepo", Progress(2, 40)),
    ],
)
def test_progress_is_the_last_epoch_printed(printed: str, progress: Progress) -> None:
    assert parse_progress(printed) == progress


@pytest.mark.parametrize(
    ("done", "total", "is_half_way"), [(0, 0, False), (19, 40, False), (20, 40, True), (2, 3, True)]
)
def test_half_way_is_half_of_the_epochs(done: int, total: int, is_half_way: bool) -> None:
    assert Progress(done, total).is_half_way is is_half_way


def test_each_node_has_its_own_name_rank_and_spool_and_the_run_in_common() -> None:
    first, second = (STAGE.environment({}, node) for node in NODES)
    for name in ("TRAINBUS_NODE", "TRAINBUS_SPOOL", "RANK"):
        assert first[name] != second[name]
    for name in ("TRAINBUS_RUN_ID", "TRAINBUS_BROKER", "TRAINBUS_STORE", "WORLD_SIZE"):
        assert first[name] == second[name]


def test_the_users_own_settings_do_not_reach_into_the_demo() -> None:
    own = {"TRAINBUS_PREFIX": "mine", "MLFLOW_TRACKING_URI": "x", "RANK": "3", "PATH": "/bin"}
    environ = STAGE.environment(own)
    assert "TRAINBUS_PREFIX" not in environ
    assert "RANK" not in environ
    assert environ["MLFLOW_TRACKING_URI"] == "sqlite:////demo/mlflow.db"
    assert environ["PATH"] == "/bin"


def test_the_command_that_opens_mlflow_can_be_pasted_whatever_the_folder() -> None:
    stage = Stage(Path("/a b"), "mqtt://127.0.0.1:1884", "demo-1", 40)
    assert stage.ui_command.endswith("ui --backend-store-uri 'sqlite:////a b/mlflow.db'")


def test_hub_is_a_sink_only_where_there_is_a_server() -> None:
    assert STAGE.sinks == ("mlflow", "clearml")
    assert "HUB_API_KEY" not in STAGE.environment({"HUB_API_KEY": "the user's own"})
    stage = Stage(Path("/demo"), "mqtt://127.0.0.1:1884", "demo-1", 40, "http://127.0.0.1:99")
    assert stage.sinks[-1] == "hub"
    assert stage.environment({})["ULTRALYTICS_HUB_API"] == "http://127.0.0.1:99"
    assert [word for word in stage.verify("--json") if word in stage.sinks] == list(stage.sinks)


def test_the_folder_of_an_earlier_demo_is_emptied(tmp_path: Path) -> None:
    with fresh_folder(tmp_path / "demo") as folder:
        (folder / "store" / "ab").mkdir(parents=True)
        (folder / "receipt.json").write_text("{}")
    with fresh_folder(tmp_path / "demo") as folder:
        assert [entry.name for entry in folder.iterdir()] == [LOCK_NAME]


def test_what_a_link_in_the_folder_points_to_is_kept(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "kept").write_text("")
    with fresh_folder(tmp_path / "demo") as folder:
        (folder / "link").symlink_to(tmp_path / "data")
    with fresh_folder(tmp_path / "demo"):
        assert (tmp_path / "data" / "kept").exists()


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        fresh_folder(tmp_path / "demo"),
        pytest.raises(ConfigError, match="a demo runs in"),
        fresh_folder(tmp_path / "demo"),
    ):
        pass


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("")
    with pytest.raises(ConfigError, match=r"folder .*demo: "), fresh_folder(tmp_path / "demo"):
        pass


def test_no_points_are_counted_while_there_is_no_database(tmp_path: Path) -> None:
    assert count_points(tmp_path / "mlflow.db") == 0
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert count_points(tmp_path / "mlflow.db") == 0
        connection.execute("CREATE TABLE metrics (key)")
        connection.execute("INSERT INTO metrics VALUES ('loss')")
        connection.commit()
    assert count_points(tmp_path / "mlflow.db") == 1


def test_a_part_that_ends_is_shown_with_the_last_it_printed(tmp_path: Path) -> None:
    children = Children(tmp_path, tmp_path / "printed")
    program = "print('first'); raise SystemExit('the disk is gone')"
    child = children.start("worker log", [sys.executable, "-u", "-c", program], {})
    child.process.wait(20)
    assert str(child.failure()) == ("worker log ended with status 1: first | the disk is gone")


def test_all_parts_are_stopped_in_the_end(tmp_path: Path) -> None:
    children = Children(tmp_path, tmp_path / "printed")
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    started = [children.start(f"part {number}", sleep, {}) for number in range(3)]
    children.stop_all()
    assert all(child.status is not None for child in started)


def test_a_part_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    children = Children(tmp_path, tmp_path / "printed")
    with pytest.raises(TrainbusError, match="cannot start worker log"):
        children.start("worker log", ["/nowhere/trainbus"], {})
