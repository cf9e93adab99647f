"""What the callbacks of the frameworks share, without any of them installed."""

from __future__ import annotations

import importlib
import json
import logging
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import publishers
from bus.errors import ConfigError, EventError
from publishers.drops import Drops
from publishers.integrations import callbacks, ultralytics
from publishers.integrations.callbacks import CallbackRun, framework_class, quietly
from tests.fixtures.spool import Spool


@pytest.fixture(autouse=True)
def fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What was warned about in another test is warned about again, and no training is left."""
    monkeypatch.setattr(callbacks, "_warnings", Drops())
    monkeypatch.setattr(ultralytics.ending, "_under_way", {})
    yield


def ends(spool: Spool) -> list[tuple[str, str, str]]:
    """Run, status and error of every end, by attempt."""
    found = []
    for source in spool.sources():
        (run,) = {
            one["run"] for one in spool.payloads(source) if isinstance(one, dict) and "run" in one
        }
        found += [
            (run, record["data"]["status"], record["data"]["error"])
            for record in spool.records("run_finished", source)
        ]
    return found


def held(**options: Any) -> CallbackRun:
    return CallbackRun("keras", None, {"finish_seconds": 0.0, **options})


def test_a_run_made_here_is_ended_and_named_by_the_folder(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    monkeypatch.chdir(folder)
    one = held(run_id="r")
    run = one.begin_training()
    one.end()
    assert run.project == "digits"
    assert one.open is None
    assert ends(spool) == [("r", "completed", "")]
    assert spool.data("run_started")[0]["framework"] == "keras"


def test_a_run_of_the_user_is_used_and_left_open(spool: Spool) -> None:
    run = publishers.start_run("p", run_id="mine")
    one = CallbackRun("keras", run, {"finish_seconds": 0.0})
    assert one.begin_training() is run
    one.end("failed", "no matter")
    assert one.use() is run
    run.finish(timeout=0.0)
    assert ends(spool) == [("mine", "completed", "")]


def test_a_run_and_options_for_one_are_refused(spool: Spool) -> None:
    with pytest.raises(ConfigError, match="name would not count"):
        CallbackRun("keras", publishers.start_run("p"), {"name": "x"})


def test_an_evaluation_after_the_training_goes_on_in_the_same_run(spool: Spool) -> None:
    one = held(project="p")
    run = one.begin_training()
    one.end()
    again = one.use()
    assert again is not run
    assert (again.id, again.name) == (run.id, run.name)
    assert "/2-" in again.source


def test_the_name_of_a_run_is_known_after_its_end_and_begins_none(spool: Spool) -> None:
    one = held(project="p", run_id="r")
    assert one.named("run_id") == "r"
    one.end()
    assert (one.named("run_id"), one.named("project")) == ("r", "p")
    assert one.open is None


def test_the_name_of_the_users_run_is_that_of_the_run(spool: Spool) -> None:
    one = CallbackRun("keras", publishers.start_run("p", "mlp"), {})
    assert (one.named("project"), one.named("name")) == ("p", "mlp")


def test_an_evaluation_before_the_training_belongs_to_it(spool: Spool) -> None:
    one = held(project="p")
    assert one.use() is one.begin_training()


def test_the_next_training_has_a_run_of_its_own(spool: Spool) -> None:
    one = held(project="p")
    first = one.begin_training()
    one.end()
    assert one.begin_training().id != first.id


def test_the_next_training_of_a_named_run_is_its_next_attempt(spool: Spool) -> None:
    one = held(project="p", run_id="r")
    one.begin_training()
    one.end()
    second = one.begin_training()
    assert second.id == "r"
    assert "/2-" in second.source


def test_a_training_that_never_ended_has_failed_when_the_next_begins(spool: Spool) -> None:
    held(project="p", run_id="crashed").begin_training()
    held(project="p", run_id="next").begin_training()
    ((run, status, error),) = ends(spool)
    assert (run, status) == ("crashed", "failed")
    assert "did not come to its end" in error


def test_a_copy_in_another_process_goes_on_in_the_same_run(spool: Spool) -> None:
    one = held(project="p", run_id="r")
    one.use()
    copy = pickle.loads(pickle.dumps(one))
    assert copy.use().id == "r"
    assert "/2-" in copy.use().source


def test_a_copy_says_that_a_run_of_the_user_cannot_follow(spool: Spool) -> None:
    one = CallbackRun("keras", publishers.start_run("p"), {})
    copy = pickle.loads(pickle.dumps(one))
    with pytest.raises(ConfigError, match="name it by run_id="):
        copy.use()


def test_what_cannot_be_started_is_tried_once_in_a_training(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINBUS_RANK", "first")
    one = held(project="p")
    with pytest.raises(ConfigError, match="TRAINBUS_RANK"):
        one.use()
    monkeypatch.delenv("TRAINBUS_RANK")
    with pytest.raises(ConfigError):
        one.use()
    assert one.begin_training().id


def test_a_callback_that_fails_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    @quietly
    def on_epoch_end(epoch: int) -> int:
        return 1 // epoch

    with caplog.at_level(logging.WARNING, "trainbus"):
        assert on_epoch_end(0) is None
        assert on_epoch_end(0) is None
    assert on_epoch_end(1) == 1
    assert len(caplog.records) == 1
    assert "ZeroDivisionError" in caplog.text


def test_what_a_strict_run_refuses_reaches_the_training(spool: Spool) -> None:
    one = held(project="p", strict=True)

    @quietly
    def on_log() -> None:
        one.use().log({"loss": "much"})

    with pytest.raises(EventError):
        on_log()


def test_a_framework_that_is_missing_is_named_with_the_way_to_get_it() -> None:
    base = framework_class("lightning", ("no_such_framework.loggers", "Logger"))
    logger: type = type("TrainbusLogger", (base,), {})
    with pytest.raises(ConfigError, match=r"TrainbusLogger needs .*'trainbus\[lightning\]'"):
        logger()


def test_a_framework_that_is_broken_says_so_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_framework.py").write_text("import no_such_backend\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_backend"):
        framework_class("keras", ("broken_framework", "Callback"))


def test_what_the_program_has_imported_goes_before_the_other() -> None:
    places = (("no_such_framework", "Logger"), ("decimal", "Decimal"), ("json", "JSONDecoder"))
    importlib.import_module("decimal")
    assert framework_class("lightning", *places).__name__ == "Decimal"
    assert framework_class("lightning", *places[::2]) is json.JSONDecoder


@pytest.mark.parametrize("framework", ["lightning", "transformers", "keras"])
def test_the_modules_can_be_imported_without_their_framework(framework: str) -> None:
    assert importlib.import_module(f"publishers.integrations.{framework}").__all__
    assert os.environ.get("KERAS_BACKEND") is None
