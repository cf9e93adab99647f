"""Reads from the machine what :mod:`publishers.environment` decides by."""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

from publishers.environment import Hints, Parent

__all__ = ["find_parent", "read_hints"]

_MAX_GENERATIONS = 64


def read_hints() -> Hints:
    """Host name, a new run id, and the way to what started this process."""
    now = datetime.fromtimestamp(time.time(), UTC)
    return Hints(
        host=socket.gethostname(),
        new_run=f"{now:%Y%m%d-%H%M%S}-{os.urandom(4).hex()}",
        find_parent=find_parent,
    )


def find_parent(marker: str, process: int = 0, proc: Path = Path("/proc")) -> Parent:
    """The nearest process above that was not started with a variable: the launcher.

    Between it and this process there may be others, such as a shell or ``trainbus run``, which
    have the variable too. Nothing is found without ``/proc``.

    Args:
        marker: The variable.
        process: Whose parent is looked for; by default this one's.
        proc: Where the kernel shows processes.
    """
    parent = first = _read_parent(proc, process) if process else os.getppid()
    for _ in range(_MAX_GENERATIONS):
        if parent <= 0:
            return Parent()
        if not _has_variable(proc, parent, marker):
            return Parent(_job_id(proc, parent), parent, is_direct=parent == first)
        parent = _read_parent(proc, parent)
    return Parent()


def _has_variable(proc: Path, process: int, name: str) -> bool:
    try:
        environ = (proc / str(process) / "environ").read_bytes()
    except OSError:
        # That of another user, as SLURM's daemons are; nobody's task.
        return False
    return any(one.startswith(f"{name}=".encode()) for one in environ.split(b"\0"))


def _read_stat(proc: Path, process: int) -> list[str]:
    """The fields after the name, from the state on; none without /proc."""
    try:
        stat = (proc / str(process) / "stat").read_text(errors="replace")
    except OSError:
        return []
    # The name in parentheses may hold anything.
    return stat.rpartition(")")[2].split()


def _read_parent(proc: Path, process: int) -> int:
    fields = _read_stat(proc, process)
    return int(fields[1]) if len(fields) > 1 else 0


def _job_id(proc: Path, process: int) -> str:
    """Made of this boot, a process id and its start; empty without /proc."""
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    # The start time is the 20th field after the name.
    fields = _read_stat(proc, process)
    if len(fields) < 20:
        return ""
    # In containers /proc may show the host's boot and process ids that begin again at 1.
    # Imported here: it loads OpenSSL, which most runs have no use for.
    import hashlib

    text = f"{boot} {socket.gethostname()} {process} {fields[19]}"
    return f"job-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
