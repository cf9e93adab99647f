"""What kills, forks, signals and full disks leave in the journal of a real process."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from publishers import start_run
from tests.fixtures.processes import Process, Processes, wait_until
from tests.fixtures.spool import Spool

BEGIN = """
import os, signal, sys, threading, time
import publishers
from publishers import exits
exits._TIMEOUT_SECONDS = 0.1
run = publishers.start_run("p")
"""

LOCK = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("held")
else:
    print("free")
"""


def is_locked(source: Path) -> bool:
    """Whether a process holds a source; asked from a process of its own."""
    asked = subprocess.run(
        [sys.executable, "-c", LOCK, str(source / "lock")],
        check=True,
        capture_output=True,
        text=True,
    )
    return asked.stdout.strip() == "held"


class Trainers:
    """Training programs that write to one spool."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self.spool = Spool(folder)

    def start(self, program: str) -> Process:
        environ = {"TRAINBUS_SPOOL": str(self.spool.folder), "TRAINBUS_SHIPPER": "off"}
        return self._processes.python("-c", BEGIN + program, environ=environ, name="trainer")

    def run(self, program: str) -> Process:
        """Start one and wait for its end."""
        process = self.start(program)
        process.wait(30.0)
        return process

    def ends(self) -> list[tuple[str, str]]:
        """Status and error of every end that was written."""
        return [(data["status"], data["error"]) for data in self.spool.data("run_finished")]


@pytest.fixture
def trainers(processes: Processes, tmp_path: Path) -> Trainers:
    return Trainers(processes, tmp_path / "spool")


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


def test_the_lock_is_held_as_long_as_the_process_lives(trainers: Trainers) -> None:
    process = trainers.start("print('up', flush=True); time.sleep(1000)")
    wait_until(lambda: "up" in process.stdout)
    (source,) = trainers.spool.sources()
    assert is_locked(source)
    process.kill()
    assert not is_locked(source)


def test_finish_frees_the_lock_of_a_process_that_goes_on(trainers: Trainers) -> None:
    process = trainers.start("run.finish(timeout=0); print('up', flush=True); time.sleep(1000)")
    wait_until(lambda: "up" in process.stdout)
    assert not is_locked(trainers.spool.sources()[0])
    assert trainers.ends() == [("completed", "")]


def test_a_run_left_open_is_completed_at_the_end_of_the_program(trainers: Trainers) -> None:
    process = trainers.run("run.log({'a': 1.0})")
    assert process.wait() == 0
    assert trainers.ends() == [("completed", "")]


def test_an_uncaught_exception_fails_the_run(trainers: Trainers) -> None:
    process = trainers.run("raise ValueError('loss is gone')")
    assert process.wait() == 1
    assert trainers.ends() == [("failed", "ValueError: loss is gone")]
    assert "ValueError: loss is gone" in process.stderr


def test_ctrl_c_kills_the_run(trainers: Trainers) -> None:
    process = trainers.start("print('up', flush=True); time.sleep(1000)")
    wait_until(lambda: "up" in process.stdout)
    process.send_signal(signal.SIGINT)
    process.wait()
    assert trainers.ends() == [("killed", "KeyboardInterrupt")]


def test_ctrl_c_while_the_last_words_are_waited_for_ends_at_once(trainers: Trainers) -> None:
    process = trainers.start("exits._TIMEOUT_SECONDS = 1000")
    wait_until(lambda: trainers.spool.sources() and trainers.spool.records("run_finished"))
    process.send_signal(signal.SIGINT)
    assert process.wait(10.0) == 0
    assert "Traceback" not in process.stderr


def test_sigterm_is_left_alone(trainers: Trainers) -> None:
    process = trainers.start("print('up', flush=True); time.sleep(1000)")
    wait_until(lambda: "up" in process.stdout)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    assert trainers.ends() == []
    assert not is_locked(trainers.spool.sources()[0])


def test_a_forked_child_neither_writes_nor_finishes_nor_frees_anything(
    trainers: Trainers, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    process = trainers.start(f"""
run.log({{"a": 1.0}}, 0)
child = os.fork()
if child == 0:
    run.log({{"a": 2.0}}, 1)
    run.log({{"a": 2.0}}, 2)
    run.params({{"a": 1}})
    run.image("t", "s", {str(tmp_path / "file")!r})
    print("finish", run.finish(timeout=5.0), flush=True)
    sys.exit(0)
os.waitpid(child, 0)
run.log({{"a": 3.0}}, 3)
print("up", run.dropped, flush=True)
sys.stdin.close()
time.sleep(1000)
""")
    wait_until(lambda: "up" in process.stdout)
    assert "finish False" in process.stdout
    assert "up {}" in process.stdout
    assert process.stderr.count("a forked process does not write") == 1
    assert trainers.spool.points() == [(0, {"a": 1.0}), (3, {"a": 3.0})]
    assert trainers.ends() == []
    (source,) = trainers.spool.sources()
    assert is_locked(source)
    assert list((source / "blobs").iterdir()) == []


def test_a_child_that_outlives_its_parent_does_not_hold_its_lock(trainers: Trainers) -> None:
    process = trainers.start("""
child = os.fork()
if child == 0:
    os.setsid()
    time.sleep(1000)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""")
    process.wait()
    child = int(process.stdout)
    try:
        assert not is_locked(trainers.spool.sources()[0])
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_fork_while_other_threads_log_does_not_hang_the_child(trainers: Trainers) -> None:
    process = trainers.run("""
import logging
logging.disable()
def work():
    while not done.is_set():
        run.log({"a": 1.0})
        run.log({"b": "x"})
done = threading.Event()
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(40):
    child = os.fork()
    if child == 0:
        run.log({"a": 1.0})
        run.params({"a": 1})
        run.finish()
        os._exit(7)
    deadline = time.monotonic() + 10
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            print("hung", flush=True)
            os.waitpid(child, 0)
            break
        time.sleep(0.005)
done.set()
""")
    assert process.wait() == 0
    assert "hung" not in process.stdout
    assert [step for step, values in trainers.spool.points() if "a" in values]
    assert None not in trainers.spool.payloads()


def test_a_forked_child_may_start_a_run_of_its_own(trainers: Trainers) -> None:
    trainers.run("""
child = os.fork()
if child == 0:
    publishers.start_run("p").log({"child": 1.0})
    sys.exit(0)
os.waitpid(child, 0)
run.log({"parent": 1.0})
""")
    first, second = trainers.spool.sources()
    logged = [*trainers.spool.points(first), *trainers.spool.points(second)]
    assert sorted(str(values) for _, values in logged) == ["{'child': 1.0}", "{'parent': 1.0}"]
    for source in (first, second):
        assert len(trainers.spool.records("run_finished", source)) == 1


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
        pytest.skip("mounting a tmpfs takes root: the injected errors above cover the same code")
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
