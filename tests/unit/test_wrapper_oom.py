"""The kernel's counter of processes killed for want of memory."""

from __future__ import annotations

from pathlib import Path

from publishers.wrapper.oom import count_oom_kills, counter_of

EVENTS = "low 0\nhigh 0\nmax 3\noom 1\noom_kill {}\noom_group_kill 0\n"


def test_version_2_counts_in_the_group_of_the_process(tmp_path: Path) -> None:
    group = tmp_path / "tree" / "job.slice" / "step"
    group.mkdir(parents=True)
    (group / "memory.events").write_text(EVENTS.format(2))
    (tmp_path / "tree" / "memory.events").write_text(EVENTS.format(9))
    (tmp_path / "cgroup").write_text("0::/job.slice/step\n")
    assert count_oom_kills(counter_of(tmp_path / "cgroup", tmp_path / "tree")) == 2


def test_a_container_that_sees_its_group_as_the_root_is_counted(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text(EVENTS.format(4))
    (tmp_path / "cgroup").write_text("0::/../of/the/host\n")
    assert count_oom_kills(counter_of(tmp_path / "cgroup", tmp_path)) == 4


def test_version_1_counts_below_the_memory_controller(tmp_path: Path) -> None:
    group = tmp_path / "memory" / "docker" / "abc"
    group.mkdir(parents=True)
    (group / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    (tmp_path / "cgroup").write_text(
        "12:cpu,cpuacct:/docker/abc\n5:memory:/docker/abc\n1:name=systemd:/docker/abc\n0::/x\n"
    )
    assert count_oom_kills(counter_of(tmp_path / "cgroup", tmp_path)) == 1


def test_without_a_counter_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/\nodd line\n")
    assert counter_of(tmp_path / "cgroup", tmp_path) is None
    assert counter_of(tmp_path / "nothing", tmp_path) is None
    assert count_oom_kills(None) == 0
    (tmp_path / "memory.events").write_text("oom_kill many\n")
    assert counter_of(tmp_path / "cgroup", tmp_path) is None
