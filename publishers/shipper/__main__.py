"""``python -m publishers.shipper SPOOL``: the shipper that training processes start."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

from bus.config import Settings
from bus.errors import TrainbusError
from publishers.journal.format import SHIPPER_LOCK_NAME, SOURCES_NAME
from publishers.shipper.shipper import Shipper

__all__ = ["IDLE_EXIT_SECONDS", "SpoolLock", "main", "node_name"]

IDLE_EXIT_SECONDS = 5.0
"""How long a shipper stays without anything to ship."""
LOCK_PATIENCE_SECONDS = 0.5


class SpoolLock:
    """The lock that makes a shipper the only one of its spool."""

    def __init__(self, spool: Path) -> None:
        self._path = spool / SHIPPER_LOCK_NAME
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False when another shipper has it.

        A trainer that looks whether there is a shipper holds it for a moment: that is waited out.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    os.close(fd)
                    return False
                time.sleep(0.02)
        self._fd = fd
        return True

    def release(self) -> None:
        """Let another shipper have it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def node_name() -> str:
    """The name of this node: TRAINBUS_NODE, or the host's."""
    return os.environ.get("TRAINBUS_NODE") or socket.gethostname() or "node"


async def _ship(settings: Settings, spool: Path) -> bool:
    """Ship until there has been nothing to ship for a while; False when a signal came."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Shipper(settings, spool, node_name()).run(stop, IDLE_EXIT_SECONDS)
    return not stop.is_set()


def _sources(spool: Path) -> set[str]:
    try:
        return {path.name for path in (spool / SOURCES_NAME).iterdir() if path.name[0] != "."}
    except OSError:
        return set()


def main() -> int:
    """Ship the spool named on the command line until it is empty."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    spool = Path(sys.argv[1])
    lock = SpoolLock(spool)
    hopeless: set[str] = set()
    try:
        settings = Settings.from_environment()
        while lock.acquire():
            is_empty = asyncio.run(_ship(settings, spool))
            lock.release()
            # A run that began while we held the lock started no shipper: look once more.
            left = _sources(spool) - hopeless
            if not left or not is_empty:
                break
            hopeless |= left
    except (TrainbusError, OSError) as error:
        print(f"trainbus: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
