"""Starts the shipper of a spool when none runs, and again when it dies.

The shipper is a process of its own, which outlives the training. Whether one runs is asked of its
lock file without taking the lock, so that asking never keeps one from starting.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from bus.config import BrokerAddress, Settings
from bus.errors import ConfigError
from publishers.drops import Drops
from publishers.journal.format import SHIPPER_LOCK_NAME, SHIPPER_LOG_NAME

__all__ = [
    "ShipperWatch",
    "is_launching_wanted",
    "is_shipper_running",
    "shipper_environment",
    "spawn_shipper",
]

_CHECK_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 60.0
_STEADY_SECONDS = 30.0
"""A shipper that lasted this long did not die of its surroundings: start the next at once."""

_MAX_LOG_BYTES = 8 * 1024 * 1024
_FLOCK = "@hhqqi"
"""``struct flock`` of 64-bit Linux: type, whence, start, length, pid."""


def is_launching_wanted(environ: Mapping[str, str]) -> bool:
    """Whether runs start a shipper: yes unless ``TRAINBUS_SHIPPER`` is ``off``.

    Raises:
        ConfigError: It is neither ``off`` nor ``auto``.
    """
    value = environ.get("TRAINBUS_SHIPPER") or "auto"
    if value not in {"auto", "off"}:
        raise ConfigError(f"TRAINBUS_SHIPPER is auto or off, not {value!r}")
    return value == "auto"


def is_shipper_running(spool: Path) -> bool:
    """Whether another process holds the shipper's lock of a spool.

    Must not be called in a process that holds the lock itself: it would lose it.
    """
    try:
        fd = os.open(spool / SHIPPER_LOCK_NAME, os.O_RDWR)
    except OSError:
        return False
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, asked)
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(fd)


def shipper_environment(
    environ: Mapping[str, str], settings: Settings, *, is_explicit: bool
) -> dict[str, str]:
    """The environment of the shipper: everything that names a place is made absolute.

    Args:
        environ: Of this process.
        settings: What this run uses.
        is_explicit: The settings were given in code, so that the broker has to be handed on too.
    """
    result = dict(environ)
    for name, value in environ.items():
        if name.startswith("TRAINBUS_") and name.endswith("_FILE") and value:
            result[name] = str(Path(value).absolute())
    result["TRAINBUS_SPOOL"] = str(settings.spool)
    result["TRAINBUS_HOME"] = str(settings.home)
    result["TRAINBUS_STORE"] = settings.store
    result["TRAINBUS_PREFIX"] = settings.prefix
    if is_explicit:
        result.pop("TRAINBUS_BROKER_FILE", None)
        result["TRAINBUS_BROKER"] = _broker_url(settings.broker)
    root = Path(__file__).absolute().parent.parent
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if str(root) not in installed:
        # Run from a checkout: the shipper has to find the same one.
        paths = filter(None, (result.get("PYTHONPATH"), str(root)))
        result["PYTHONPATH"] = os.pathsep.join(paths)
    return result


def spawn_shipper(spool: Path, environ: Mapping[str, str]) -> Callable[[], bool]:
    """Start a shipper that outlives this process; gives a function that says if it still runs.

    Raises:
        OSError: It cannot be started.
    """
    # Imported late: most of the cost of starting a run would be this import.
    import subprocess

    if not sys.executable:
        raise OSError("the path of this Python is not known")
    log = spool / SHIPPER_LOG_NAME
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as output:
        # -P: a folder named "bus" in the working directory must not be taken for ours.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "publishers.shipper", str(spool)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=spool,
            env=dict(environ),
            start_new_session=True,
        )
    # It is a child of this process, which therefore has to take note of its end.
    # At the end of the interpreter there are no new threads, nor anybody for whom it matters.
    with suppress(RuntimeError):
        threading.Thread(target=process.wait, name="trainbus-reaper", daemon=True).start()
    return lambda: process.poll() is None


class ShipperWatch:
    """Keeps a shipper running for one run."""

    def __init__(
        self,
        is_running: Callable[[], bool],
        spawn: Callable[[], Callable[[], bool]],
        drops: Drops,
        *,
        clock: Callable[[], float] = time.monotonic,
        stop: threading.Event | None = None,
    ) -> None:
        """Begin without starting anything.

        Args:
            is_running: Whether any shipper serves the spool.
            spawn: Starts one, and gives a function that says whether it still runs.
            drops: Told when none can be started.
            clock: Monotonic seconds.
            stop: Its ``wait`` is the pause between two checks.
        """
        self._is_running = is_running
        self._spawn = spawn
        self._drops = drops
        self._clock = clock
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._is_child_alive: Callable[[], bool] = lambda: False
        self._spawned_at = -_STEADY_SECONDS
        self._pause_seconds = 0.0

    def start(self, *, is_lead: bool = True) -> None:
        """Check every two seconds from now on; at once only where this process is to be first."""
        if is_lead:
            self.check()
        try:
            name = "trainbus-shipper-watch"
            threading.Thread(target=self._watch, name=name, daemon=True).start()
        except RuntimeError as error:
            self._drops.warn("shipper", f"the shipper is not watched over: {error}")

    def check(self) -> None:
        """Start a shipper unless one runs, or the last ones died too quickly to try again now."""
        with self._lock:
            if self._is_child_alive() or self._is_running():
                return
            age = self._clock() - self._spawned_at
            if age < self._pause_seconds:
                return
            if age >= _STEADY_SECONDS + self._pause_seconds:
                self._pause_seconds = 0.0
            try:
                self._is_child_alive = self._spawn()
            except Exception as error:  # noqa: BLE001  # the bus must never stop a training
                self._drops.warn(
                    "shipper", f"the shipper cannot be started: {error}; run `trainbus ship`"
                )
            self._spawned_at = self._clock()
            doubled = max(_CHECK_SECONDS, 2 * self._pause_seconds)
            self._pause_seconds = min(doubled, _LONGEST_PAUSE_SECONDS)
            if self._pause_seconds >= 4 * _CHECK_SECONDS:
                self._drops.warn(
                    "shipper", f"the shipper ends right after its start: see {SHIPPER_LOG_NAME}"
                )

    def stop(self) -> None:
        """Check no more. The shipper goes on by itself."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(_CHECK_SECONDS):
            self.check()


def _broker_url(broker: BrokerAddress) -> str:
    scheme = "mqtts" if broker.is_tls else "mqtt"
    host = f"[{broker.host}]" if ":" in broker.host else broker.host
    user = quote(broker.username, safe="") if broker.username else ""
    if broker.password:
        user += ":" + quote(broker.password, safe="")
    return f"{scheme}://{user + '@' if user else ''}{host}:{broker.port}"
