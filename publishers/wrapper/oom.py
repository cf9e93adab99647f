"""How many processes the kernel has killed for want of memory in this process's control group.

- Version 2: ``oom_kill`` in ``memory.events``, descendants included
  (https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files).
- Version 1: ``oom_kill`` in ``memory.oom_control``
  (https://docs.kernel.org/admin-guide/cgroup-v1/memory.html#oom-control), since Linux 4.13.

A container often sees its own group as the root of the tree: when the path of the group is not
there, the root is asked.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["count_oom_kills", "counter_of"]

_TREE = Path("/sys/fs/cgroup")
_PROC = Path("/proc/self/cgroup")


def counter_of(proc: Path = _PROC, tree: Path = _TREE) -> Path | None:
    """The file with the counter for this process; None when there is none."""
    try:
        lines = proc.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    groups = dict(line.split(":", 2)[1:] for line in lines if line.count(":") >= 2)
    candidates = []
    for controllers, path in groups.items():
        below = path.lstrip("/")
        if "memory" in controllers.split(","):
            root = tree / "memory"
            candidates += [root / below / "memory.oom_control", root / "memory.oom_control"]
        elif not controllers:
            # In the hybrid layout version 2 is mounted apart, without the memory controller.
            candidates += [tree / below / "memory.events", tree / "memory.events"]
    return next((path for path in candidates if _read(path) is not None), None)


def count_oom_kills(counter: Path | None) -> int:
    """What the counter shows; 0 when it cannot be read."""
    return (_read(counter) or 0) if counter is not None else 0


def _read(path: Path) -> int | None:
    try:
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        return None
    return None
