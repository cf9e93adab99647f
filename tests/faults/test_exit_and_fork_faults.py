"""How runs end when nobody calls ``finish``, and what a forked child may not do."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.fixtures.processes import wait_until
from tests.fixtures.trainers import Trainers, is_locked


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
