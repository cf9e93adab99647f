from __future__ import annotations

import fcntl
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bus.config import Settings
from publishers import launch
from publishers.drops import Drops
from publishers.launch import (
    ShipperWatch,
    is_launching_wanted,
    is_shipper_running,
    shipper_environment,
    spawn_shipper,
)
from tests.fixtures.processes import wait_until

HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


class World:
    """Shippers that live and die as the test says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.is_running = False
        self.is_child_alive = False
        self.spawned = 0
        self.error: Exception | None = None
        self.drops = Drops()
        self.watch = ShipperWatch(
            lambda: self.is_running, self.spawn, self.drops, clock=lambda: self.now
        )

    def spawn(self) -> Callable[[], bool]:
        self.spawned += 1
        if self.error is not None:
            raise self.error
        self.is_child_alive = True
        return lambda: self.is_child_alive


@pytest.fixture
def world() -> World:
    return World()


def test_a_running_shipper_is_left_alone(world: World) -> None:
    world.is_running = True
    world.watch.check()
    assert world.spawned == 0


def test_one_is_started_where_none_runs_and_is_given_time_to_take_its_lock(world: World) -> None:
    for _ in range(5):
        world.watch.check()
        world.now += 2.0
    assert world.spawned == 1


def test_one_that_died_is_started_again(world: World) -> None:
    world.watch.check()
    world.now += 1000.0
    world.is_child_alive = False
    world.watch.check()
    assert world.spawned == 2


def test_one_that_dies_at_once_is_started_less_and_less_often(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    starts = []
    for second in range(600):
        before = world.spawned
        world.watch.check()
        world.is_child_alive = False
        if world.spawned > before:
            starts.append(second)
        world.now += 1.0
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses[:5] == [2, 4, 8, 16, 32]
    assert set(pauses[5:]) == {60}
    assert len(caplog.messages) == 1
    assert "see shipper.log" in caplog.messages[0]


def test_one_that_lasted_is_replaced_at_once(world: World) -> None:
    for _ in range(20):
        world.watch.check()
        world.is_child_alive = False
        world.now += 1.0
    world.now += 1000.0
    world.watch.check()
    world.now += 100.0
    world.is_child_alive = False
    spawned = world.spawned
    world.watch.check()
    assert world.spawned == spawned + 1


@pytest.mark.parametrize("error", [OSError("no more processes"), ValueError("no more processes")])
def test_a_failure_to_start_is_warned_about_once(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world.error = error
    for _ in range(100):
        world.watch.check()
        world.now += 2.0
    assert world.spawned > 3
    assert len(caplog.messages) == 1
    assert "no more processes" in caplog.messages[0]


def test_only_the_lead_of_a_node_starts_one_at_once(world: World) -> None:
    world.watch.start(is_lead=False)
    assert world.spawned == 0
    world.watch.stop()
    other = World()
    other.watch.start(is_lead=True)
    assert other.spawned == 1
    other.watch.stop()


def test_the_watch_looks_again_after_every_pause() -> None:
    looked: list[float] = []

    class Clockwork(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            looked.append(timeout or 0.0)
            return len(looked) > 3

    world = World()
    watch = ShipperWatch(
        lambda: world.is_running, world.spawn, world.drops, clock=lambda: 0.0, stop=Clockwork()
    )
    watch.start(is_lead=False)
    wait_until(lambda: len(looked) > 3)
    assert looked == [2.0] * 4
    assert world.spawned == 1


def test_where_no_thread_can_be_had_the_run_starts_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    world.watch.start()
    assert world.spawned == 1
    assert "not watched over: can't start new thread" in caplog.text


def test_the_lock_of_another_process_is_seen_and_not_disturbed(tmp_path: Path) -> None:
    assert not is_shipper_running(tmp_path)
    lock = tmp_path / "shipper.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_shipper_running(tmp_path)
        assert is_shipper_running(tmp_path)
        holder.communicate()
    assert not is_shipper_running(tmp_path)


def test_asking_takes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipper.lock").touch()

    def refuse(*arguments: object) -> None:
        raise AssertionError("the lock was taken")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert not is_shipper_running(tmp_path)


@pytest.mark.parametrize(
    ("value", "wanted"), [(None, True), ("", True), ("auto", True), ("off", False)]
)
def test_launching_can_be_turned_off(value: str | None, wanted: bool) -> None:
    environ = {} if value is None else {"TRAINBUS_SHIPPER": value}
    assert is_launching_wanted(environ) is wanted


def test_the_shipper_gets_absolute_places_and_the_rest_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"TRAINBUS_SPOOL": "spool", "TRAINBUS_BROKER_FILE": "secret", "OTHER": "x"}
    (tmp_path / "secret").write_text("mqtt://u:p@h:1")
    settings = Settings.from_environment({**environ, "HOME": str(tmp_path)})
    result = shipper_environment(environ, settings, is_explicit=False)
    assert result["TRAINBUS_SPOOL"] == str(tmp_path / "spool")
    assert result["TRAINBUS_BROKER_FILE"] == str(tmp_path / "secret")
    assert "TRAINBUS_BROKER" not in result
    assert result["OTHER"] == "x"
    assert Settings.from_environment(result).broker == settings.broker


@pytest.mark.parametrize(
    "broker", ["mqtts://u%40x:p%2F%3A@host:8884", "mqtt://[::1]:1", "mqtt://u@h"]
)
def test_settings_given_in_code_are_handed_on(tmp_path: Path, broker: str) -> None:
    settings = Settings.from_environment(
        {"TRAINBUS_BROKER": broker, "TRAINBUS_HOME": str(tmp_path), "TRAINBUS_PREFIX": "a/b"}
    )
    environ = {"TRAINBUS_BROKER_FILE": "/nowhere", "TRAINBUS_HOME": "/elsewhere"}
    result = shipper_environment(environ, settings, is_explicit=True)
    again = Settings.from_environment(result)
    assert (again.broker, again.spool, again.store) == (
        settings.broker,
        settings.spool,
        settings.store,
    )
    assert again.prefix == "a/b"


def test_a_shipper_is_started_apart_from_us_and_leaves_no_zombie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "$@" "$(ps -o sid= -p $$)" $$ "$PWD"\nexec sleep 1000\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    spool = tmp_path / "spool"
    spool.mkdir()
    is_alive = spawn_shipper(spool, dict(os.environ))
    log = spool / "shipper.log"
    words = wait_until(lambda: log.read_text().split())
    assert words[:4] == ["-P", "-m", "publishers.shipper", str(spool)]
    session, pid, folder = words[4:]
    assert session == pid
    assert folder == str(spool)
    assert is_alive()
    os.kill(int(pid), 9)
    wait_until(lambda: not is_alive())
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_log_that_has_grown_large_is_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_MAX_LOG_BYTES", 10)
    monkeypatch.setattr(sys, "executable", "/bin/true")
    (tmp_path / "shipper.log").write_text("x" * 100)
    is_alive = spawn_shipper(tmp_path, {})
    wait_until(lambda: not is_alive())
    assert (tmp_path / "shipper.log.1").read_text() == "x" * 100
    assert (tmp_path / "shipper.log").read_text() == ""


def test_without_a_known_python_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(OSError, match="Python is not known"):
        spawn_shipper(tmp_path, {})
