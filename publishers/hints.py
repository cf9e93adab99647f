"""Reads from the machine what :mod:`publishers.environment` decides by."""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

from publishers.environment import Hints

__all__ = ["read_hints", "siblings_id"]


def read_hints() -> Hints:
    """Host name, a new run id, and the id that processes of the same parent share."""
    now = datetime.fromtimestamp(time.time(), UTC)
    return Hints(
        host=socket.gethostname(),
        new_run=f"{now:%Y%m%d-%H%M%S}-{os.urandom(4).hex()}",
        siblings=siblings_id(os.getppid()),
    )


def siblings_id(parent: int, proc: Path = Path("/proc")) -> str:
    """An id made of this boot, the parent's process id and its start; empty without /proc."""
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        stat = (proc / str(parent) / "stat").read_text()
    except (OSError, UnicodeDecodeError):
        return ""
    # The name in parentheses may hold anything; the start time is the 20th field after it.
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20:
        return ""
    # In containers /proc may show the host's boot and process ids that begin again at 1.
    # Imported here: it loads OpenSSL, which most runs have no use for.
    import hashlib

    text = f"{boot} {socket.gethostname()} {parent} {fields[19]}"
    return f"job-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
