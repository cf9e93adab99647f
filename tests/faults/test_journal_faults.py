"""What kills, signals and full disks leave in the journal of a real process."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from publishers import start_run
from tests.fixtures.missing import missing
from tests.fixtures.processes import wait_until
from tests.fixtures.spool import Spool
from tests.fixtures.trainers import Trainers, is_locked


@pytest.mark.parametrize("rows", [1, 2, 5000])
def test_a_process_killed_right_after_log_has_lost_nothing(trainers: Trainers, rows: int) -> None:
    process = trainers.run(f"""
for step in range({rows}):
    run.log({{"loss": step / 7, "lr": 0.1}}, step)
os.kill(os.getpid(), signal.SIGKILL)
""")
    assert process.wait() == -signal.SIGKILL
    assert trainers.spool.points() == [
        (step, {"loss": step / 7, "lr": 0.1}) for step in range(rows)
    ]
    assert trainers.ends() == []
    assert not is_locked(trainers.spool.sources()[0])


def test_a_process_killed_at_any_moment_leaves_whole_lines_in_order(trainers: Trainers) -> None:
    process = trainers.start("""
for step in range(10**9):
    run.log({"loss": step}, step)
    if step % 100 == 0:
        print(step, flush=True)
""")
    wait_until(lambda: len(process.stdout.split()) > 50)
    process.kill()
    said = int(process.stdout.split()[-2])
    steps = [step for step, _ in trainers.spool.points()]
    assert steps == list(range(len(steps)))
    assert len(steps) > said


def test_a_signal_handler_may_log_in_the_middle_of_a_log_call(trainers: Trainers) -> None:
    process = trainers.run("""
count = 0
def handle(number, frame):
    global count
    run.log({f"handler{count % 50}": 1.0}, count)
    run.tags({"n": str(count)})
    count += 1
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
end = time.monotonic() + 1.5
step = 0
while time.monotonic() < end:
    run.log({"main": 1.0, f"k{step % 7}": 2.0}, step)
    step += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(step, count, flush=True)
""")
    assert process.wait() == 0
    steps, count = map(int, process.stdout.split())
    points = trainers.spool.points()
    assert count > 100
    assert [step for step, values in points if "main" in values] == list(range(steps))
    assert len(points) == steps + count
    assert None not in trainers.spool.payloads()


def test_a_limit_on_the_size_of_files_costs_nothing(trainers: Trainers) -> None:
    process = trainers.run("""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for step in range(2000):
    run.log({"a": step}, step)
print(run.dropped)
""")
    assert process.wait() == 0
    steps = [step for step, _ in trainers.spool.points()]
    lost = {"disk_full": 2000 - len(steps)} if len(steps) < 2000 else {}
    assert process.stdout.strip() == str(lost)
    assert len(steps) > 1990
    assert len(list(trainers.spool.sources()[0].glob("*.journal"))) > 3


def test_a_disk_that_fails_never_reaches_the_training_and_is_reported_afterwards(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = start_run("p")
    real = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def broken(fd: int, data: bytes) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal = run._rows.journal
    run.log({"a": 1.0}, 0)
    for write in (full, broken):
        monkeypatch.setattr(journal, "_write", write)
        for step in range(100):
            run.log({"a": 1.0, "b": 2.0}, step)
        run.params({"lr": 0.1})
    monkeypatch.setattr(journal, "_write", real)
    run.log({"a": 1.0}, 1)
    assert run.dropped == {"disk_full": 101, "io_error": 101}
    assert len(caplog.messages) == 2
    assert spool.points() == [(0, {"a": 1.0}), (1, {"a": 1.0})]
    assert spool.data("tags") == [{"set": {"trainbus.dropped": "202"}}]


def test_a_copy_whose_record_is_lost_takes_no_room(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = start_run("p")

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run._rows.journal, "_write", full)
    (tmp_path / "a").write_bytes(b"1")
    run.artifact(tmp_path / "a")
    assert run.dropped == {"disk_full": 1}
    assert list((spool.sources()[0] / "blobs").iterdir()) == []


def test_the_end_waits_for_room_on_the_disk_as_long_as_finish_may(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run("p")
    journal = run._rows.journal
    fails = [True]
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if fails:
            fails.pop()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    monkeypatch.setattr(journal, "_write", write)
    run.finish(timeout=1.0)
    assert len(spool.data("run_finished")) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, check=False, capture_output=True).returncode:
        missing("a small file system", "mounting a tmpfs takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full_loses_only_what_came_meanwhile(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    monkeypatch.setenv("TRAINBUS_SPOOL", str(small_disk / "spool"))
    small = Spool(small_disk / "spool")
    run = start_run("p")
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC
    for step in range(1000):
        run.log({"a": step}, step)
    lost = run.dropped["disk_full"]
    assert 0 < lost <= 1000
    run.artifact(__file__)
    assert run.dropped["no_room_for_files"] == 1
    ballast.unlink()
    for step in range(1000, 1100):
        run.log({"a": step}, step)
    assert run.dropped["disk_full"] == lost
    steps = [step for step, _ in small.points()]
    assert steps == [*range(1000 - lost), *range(1000, 1100)]
    assert small.data("tags") == [{"set": {"trainbus.dropped": str(lost + 1)}}]
    run.finish(timeout=0.0)
    assert small.data("run_finished")[0]["dropped"] == run.dropped
