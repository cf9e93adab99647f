"""Whether a run was asked to stop, as its training process sees it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bus.control import StopNotice
from bus.errors import JournalError
from publishers import Run, start_run
from publishers.drops import Drops
from publishers.journal.format import make_line
from publishers.shipper.stopnotes import write_note
from publishers.stopping import LOOK_SECONDS, MAX_NOTE_BYTES, StopSign, read_note
from tests.fixtures.spool import Spool

NOTICE = StopNotice("loss diverged", "trainbus stop", 5.5)
SOUND = make_line(b'{"action":"stop","reason":"r","by":"b","time":1}')


class Clock:
    """Monotonic seconds that a test moves, and how often they were asked for."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def run(spool: Spool) -> Run:
    return start_run("digits", "mlp")


def later(run: Run) -> None:
    """Let half a second pass for a run that has just looked."""
    run._stop_sign._look_at = float("-inf")


def test_a_run_nobody_asked_to_stop_goes_on(run: Run) -> None:
    assert run.should_stop is False
    assert run.stop_reason is None


def test_a_run_sees_the_note_and_why(spool: Spool, run: Run) -> None:
    write_note(spool.sources()[0], NOTICE)
    assert run.should_stop is True
    assert run.stop_reason == "loss diverged"


def test_who_asked_is_the_reason_where_none_was_given(spool: Spool, run: Run) -> None:
    write_note(spool.sources()[0], StopNotice("", "hub", 1.0))
    assert run.stop_reason == "asked by hub"


def test_what_was_seen_stays_after_the_end_of_the_run(spool: Spool, run: Run) -> None:
    (source,) = spool.sources()
    write_note(source, NOTICE)
    assert run.should_stop
    (source / "stop").unlink()
    run.finish(timeout=0.0)
    later(run)
    assert run.should_stop
    assert run.stop_reason == "loss diverged"


def test_a_training_started_again_does_not_see_the_note_of_the_one_before(
    spool: Spool,
) -> None:
    first = start_run("digits", "mlp", run_id="r")
    write_note(spool.sources()[0], NOTICE)
    second = start_run("digits", "mlp", run_id="r")
    assert (first.should_stop, second.should_stop) == (True, False)


def test_a_run_without_a_spool_is_never_asked_to_stop(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRAINBUS_SPOOL", str(tmp_path / "file" / "spool"))
    run = start_run("digits")
    assert run.should_stop is False
    assert run.stop_reason is None


def test_the_disk_is_looked_at_twice_a_second_at_the_most(tmp_path: Path) -> None:
    clock = Clock()
    sign = StopSign(tmp_path, Drops(), clock)
    assert sign.notice is None
    write_note(tmp_path, NOTICE)
    clock.now += LOOK_SECONDS * 0.99
    assert sign.notice is None
    clock.now += LOOK_SECONDS * 0.02
    assert sign.notice == NOTICE


def test_between_two_looks_no_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []

    def note(path: object, *arguments: object) -> int:
        opened.append(path)
        raise FileNotFoundError

    clock = Clock()
    sign = StopSign(tmp_path, Drops(), clock)
    monkeypatch.setattr(os, "open", note)
    for _ in range(1000):
        assert sign.notice is None
        clock.now += 0.001
    monkeypatch.undo()
    assert len(opened) == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        SOUND[:-2],
        SOUND[:20],
        b"0" + SOUND[1:],
        SOUND.replace(b"stop", b"stay"),
        make_line(b"{}"),
        make_line(b'{"action":"pause","reason":"r","by":"b","time":1}'),
        b"\xff" * 2 * MAX_NOTE_BYTES,
    ],
)
def test_a_damaged_note_is_ignored_and_reported_once(
    spool: Spool, run: Run, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (source,) = spool.sources()
    (source / "stop").write_bytes(raw)
    for _ in range(3):
        later(run)
        assert run.should_stop is False
    assert len(caplog.records) == 1
    assert "not known whether the run was asked to stop" in caplog.text
    # The shipper writes it anew when it is asked again.
    write_note(source, NOTICE)
    later(run)
    assert run.should_stop


@pytest.mark.parametrize("what", ["folder", "fifo", "loop"])
def test_what_is_no_file_does_not_hold_up_the_training(
    spool: Spool, run: Run, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = spool.sources()[0] / "stop"
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    assert run.should_stop is False
    assert len(caplog.records) == 1


def test_an_error_of_the_disk_is_not_raised_into_the_training(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "open", fail)
    is_asked = run.should_stop
    monkeypatch.undo()
    assert is_asked is False
    assert "Input/output error" in caplog.text


def test_a_folder_that_is_gone_is_no_request(tmp_path: Path) -> None:
    assert read_note(tmp_path / "gone") is None


def test_a_note_that_is_only_half_written_is_not_there(tmp_path: Path) -> None:
    (tmp_path / ".stop.new").write_bytes(SOUND[:10])
    assert read_note(tmp_path) is None
    write_note(tmp_path, NOTICE)
    assert read_note(tmp_path) == NOTICE
    assert [path.name for path in tmp_path.iterdir()] == ["stop"]


def test_a_slow_look_does_not_undo_what_another_thread_has_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = StopSign(tmp_path, Drops(), Clock())

    def find_late(folder: Path) -> None:
        # Another thread looks, and is done first.
        sign._notice = NOTICE

    monkeypatch.setattr("publishers.stopping.read_note", find_late)
    assert sign.notice == NOTICE


def test_a_note_that_cannot_be_read_says_which(tmp_path: Path) -> None:
    (tmp_path / "stop").write_bytes(b"x")
    with pytest.raises(JournalError, match="stop is damaged"):
        read_note(tmp_path)


def test_asking_costs_next_to_nothing(run: Run) -> None:
    assert not run.should_stop
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(1000):
            run.should_stop  # noqa: B018  # the property is what is measured
        best = min(best, time.perf_counter() - began)
    # Generous: shared machines. Measured 0.2 µs.
    assert best / 1000 < 2e-6
