from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from publishers import Run, start_run
from tests.fixtures.spool import Spool


@pytest.fixture
def run(spool: Spool) -> Run:
    return start_run("digits", "mlp")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    path.write_bytes(b"weights")
    return path


def test_finish_writes_the_end_and_frees_the_lock(spool: Spool, run: Run) -> None:
    run.log({"a": "x"})
    assert run.finish("failed", "boom", timeout=0.0) is False
    assert spool.payloads()[-1]["data"] == {
        "status": "failed",
        "error": "boom",
        "dropped": {"bad_value": 1},
        "rank": 0,
        "attempt": 1,
    }


def test_finish_returns_true_once_everything_is_stored(spool: Spool, run: Run) -> None:
    (source,) = spool.sources()

    def store() -> None:
        while not spool.records("run_finished"):
            time.sleep(0.005)
        shutil.rmtree(source)

    thread = threading.Thread(target=store)
    thread.start()
    assert run.finish(timeout=10.0) is True
    thread.join()
    assert run.finish(timeout=0.0) is True


def test_finish_waits_no_longer_than_its_timeout(spool: Spool, run: Run) -> None:
    start = time.monotonic()
    assert run.finish(timeout=0.2) is False
    assert 0.2 <= time.monotonic() - start < 2.0


def test_a_folder_that_somebody_removed_is_no_confirmation(
    spool: Spool, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(spool.sources()[0])
    assert run.finish(timeout=0.0) is False
    assert "was removed" in caplog.text


def test_a_second_finish_changes_nothing(spool: Spool, run: Run) -> None:
    run.finish(timeout=0.0)
    run.finish("failed", timeout=0.0)
    assert [data["status"] for data in spool.data("run_finished")] == ["completed"]


def test_an_unknown_status_is_taken_as_failed(spool: Spool, run: Run) -> None:
    run.finish("FINISHED", timeout=0.0)
    assert spool.data("run_finished")[0]["status"] == "failed"


def test_an_error_that_no_journal_can_hold_still_ends_the_run(spool: Spool, run: Run) -> None:
    run.finish("failed", "\ud800" + "x" * 1_000_000, timeout=0.0)
    assert spool.data("run_finished")[0]["status"] == "failed"


def test_after_the_end_nothing_is_taken(spool: Spool, run: Run, file: Path) -> None:
    run.log({"a": 1.0})
    run.finish(timeout=0.0)
    before = len(spool.payloads())
    run.log({"a": 1.0})
    run.params({"a": 1})
    run.artifact(file)
    assert run.dropped == {"after_finish": 3}
    assert len(spool.payloads()) == before
    assert len(list((spool.sources()[0] / "blobs").iterdir())) == 0


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ValueError("bad loss"), "failed", "ValueError: bad loss"),
        (KeyboardInterrupt(), "killed", "KeyboardInterrupt"),
        (SystemExit(0), "completed", ""),
        (SystemExit(3), "failed", "SystemExit: 3"),
    ],
)
def test_an_exception_in_the_block_ends_the_run_with_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str, text: str
) -> None:
    monkeypatch.setattr(Run.finish, "__defaults__", ("completed", "", 0.0))
    with pytest.raises(type(error)), start_run("p"):
        raise error
    (data,) = spool.data("run_finished")
    assert (data["status"], data["error"]) == (status, text)


def test_a_block_that_ends_well_completes_the_run(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run.finish, "__defaults__", ("completed", "", 0.0))
    with start_run("p") as run:
        run.log({"a": 1.0})
    assert spool.data("run_finished")[0]["status"] == "completed"
