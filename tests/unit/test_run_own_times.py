"""``Run.log(…, at=)``, frozen files, and models with a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bus.errors import EventError
from publishers import Run, start_run
from tests.fixtures.spool import Spool


def begin(**arguments: Any) -> Run:
    return start_run("p", **arguments)


def times(spool: Spool) -> list[float]:
    return [one[1] for one in spool.payloads() if isinstance(one, list)]


@pytest.mark.parametrize("at", [0, 1_700_000_000.123, 253_402_300_798.0])
def test_a_row_has_the_time_it_is_given(spool: Spool, at: float) -> None:
    run = begin()
    run.log({"a": 1.0}, 3, at=at)
    run.log({"a": 2.0}, 4, at=at)
    run.log({"a": float("nan")}, 5, at=at)
    assert times(spool) == [at, at, at]
    assert [step for step, _ in spool.points()] == [3, 4, 5]


@pytest.mark.parametrize("at", [-1, 253_402_300_799, float("nan"), float("inf"), "now", 2**70])
def test_a_time_that_no_event_can_have_is_refused(spool: Spool, at: Any) -> None:
    run = begin()
    run.log({"a": 1.0}, 0)
    run.log({"a": 1.0, "b": 2.0}, 1, at=at)
    assert [step for step, _ in spool.points()] == [0]
    assert run.dropped == {"bad_value": 2}
    with pytest.raises(EventError, match="is no time in Unix seconds"):
        begin(strict=True).log({"a": 1.0}, 0, at=at)


def test_a_frozen_file_is_linked_and_another_is_copied(spool: Spool, tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"a")
    run = begin()
    run.artifact(file, is_frozen=True)
    run.artifact(file)
    linked, copied = [spool.blob(record) for record in spool.records("artifact")]
    assert linked.samefile(file)
    assert not copied.samefile(file)


def test_a_frozen_folder_may_lie_in_the_spool(spool: Spool) -> None:
    run = begin()
    folder = spool.folder / "kept" / "m"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "w").write_bytes(b"w")
    run.model(folder, "m", is_frozen=True, key="k1", options={"mlflow": {"params": {"a": "1"}}})
    run.model(folder, "m")
    (record,) = spool.records("model")
    assert (spool.blob(record) / "data" / "w").samefile(folder / "data" / "w")
    assert record["data"]["key"] == "k1"
    assert record["data"]["options"] == {"mlflow": {"params": {"a": "1"}}}
    assert run.dropped == {"left_out": 1}


def test_a_file_system_without_hard_links_gets_a_copy(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    file = tmp_path / "a.bin"
    file.write_bytes(b"a")
    run = begin()
    run.artifact(file, is_frozen=True)
    (record,) = spool.records("artifact")
    assert spool.blob(record).read_bytes() == b"a"
    assert run.dropped == {}


def test_who_does_not_wait_is_not_told_that_nothing_is_confirmed(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    assert begin().finish(timeout=0.0) is False
    assert caplog.records == []
