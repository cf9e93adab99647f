"""The embedded broker as a child process: started, watched, stopped, killed, wiped.

Its folder::

    FOLDER/
      broker.lock       held by the broker process itself as long as it lives
      broker.log        what it printed
      mosquitto.conf    or nats.conf
      data/             sessions and queues

The lock is an inherited file description and not a lock of this process: when the parent is killed
and the broker lives on, a second broker must not open the same data.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from bus.broker.engines import Engine, EngineName, find_engine
from bus.broker.probe import answers_mqtt, free_port, is_port_free
from bus.broker.settings import HOST
from bus.config import BrokerAddress
from bus.errors import BrokerError, ConfigError

__all__ = ["EmbeddedBroker"]

_POLL_SECONDS = 0.02
_PORT_ATTEMPTS = 5


class EmbeddedBroker:
    """A broker on 127.0.0.1 with its data in a folder of its own. Blocking; not for an event loop.

    A second :meth:`start` after :meth:`stop` or :meth:`kill` uses the same port and data.

    Args:
        folder: Made when missing. One broker at a time may use it.
        engine: Which program; ``auto`` takes Mosquitto when it is installed, else NATS.
        port: TCP port; None for a free one, which then stays the same.

    Raises:
        ConfigError: No broker program is installed.
    """

    def __init__(self, folder: Path, engine: EngineName = "auto", port: int | None = None) -> None:
        self.folder = folder.absolute()
        self._engine: Engine = find_engine(engine)
        self._port = port
        self._is_port_given = port is not None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def engine(self) -> str:
        """``mosquitto`` or ``nats``."""
        return self._engine.name

    @property
    def address(self) -> BrokerAddress:
        """Where it listens. Known from the first :meth:`start` on, also while it is down."""
        if self._port is None:
            raise BrokerError("the broker was never started and has no port yet")
        return BrokerAddress(HOST, self._port)

    @property
    def pid(self) -> int | None:
        """Process id; None while it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def log_file(self) -> Path:
        """What the broker printed, over all its starts."""
        return self.folder / "broker.log"

    def start(self, timeout_seconds: float = 15.0) -> BrokerAddress:
        """Start it and wait until it accepts MQTT connections. Nothing is done if it runs.

        Raises:
            ConfigError: The port or the folder is in use, or the folder cannot be written.
            BrokerError: It ended at once, or does not answer in time.
        """
        if self.pid is not None:
            return self.address
        deadline = time.monotonic() + timeout_seconds
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            has_chosen = self._choose_port()
            try:
                self._launch()
                self._wait_until_ready(deadline)
            except BrokerError:
                # Another process may have taken the port between our look and the broker's.
                if (
                    not has_chosen
                    or attempt == _PORT_ATTEMPTS
                    or is_port_free(HOST, self._port_now)
                ):
                    raise
                self._port = None
            else:
                break
        return self.address

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Ask it to end and wait; it saves its data. Killed when it takes longer."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """SIGKILL: what a crash leaves behind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wipe(self) -> None:
        """Delete all sessions and queues.

        Raises:
            BrokerError: It runs.
        """
        if self.pid is not None:
            raise BrokerError("stop the broker before its data is deleted")
        shutil.rmtree(self._data, ignore_errors=True)

    def wait(self) -> int:
        """Wait until it ends by itself or by another's hand, and return its exit status.

        Raises:
            BrokerError: It was never started.
        """
        if self._process is None:
            raise BrokerError("the broker was never started")
        return self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send the running broker a signal, such as SIGSTOP; nothing when it does not run."""
        if self._process is not None:
            self._process.send_signal(number)

    def log_tail(self, lines: int = 5) -> str:
        """The last lines it printed, joined by `` | ``."""
        try:
            text = self.log_file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return " | ".join(text.splitlines()[-lines:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _port_now(self) -> int:
        return self.address.port

    def _choose_port(self) -> bool:
        """Settle the port; True when it was chosen just now and may be chosen again."""
        if self._port is None:
            self._port = free_port(HOST)
            return True
        if not is_port_free(HOST, self._port):
            what = "choose another port" if self._is_port_given else "end what listens there"
            raise ConfigError(f"port {self._port} on {HOST} is in use: {what}")
        return False

    def _launch(self) -> None:
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            settings_file = self.folder / f"{self._engine.name}.conf"
            settings_file.write_text(self._engine.settings(self._port_now, self._data), "utf-8")
            lock = os.open(self.folder / "broker.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(f"broker folder {self.folder}: {error.strerror or error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self.log_file.open("ab") as log:
                # A session of its own: Ctrl-C in a terminal is for the parent, which stops it.
                self._process = subprocess.Popen(
                    self._engine.command(settings_file),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    pass_fds=(lock,),
                    start_new_session=True,
                )
        except BlockingIOError as error:
            raise ConfigError(
                f"broker folder {self.folder} is in use by a running broker: "
                "end it or choose another folder"
            ) from error
        except OSError as error:
            raise BrokerError(f"cannot run {self._engine.program}: {error.strerror}") from error
        finally:
            os.close(lock)

    def _wait_until_ready(self, deadline: float) -> None:
        process = self._process
        if process is None:
            raise BrokerError("the broker was never started")
        while not answers_mqtt(HOST, self._port_now):
            if process.poll() is not None:
                raise BrokerError(
                    f"{self.engine} ended at once with status {process.returncode}: "
                    f"{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                self.kill()
                raise BrokerError(f"{self.engine} does not answer in time: {self.log_tail()}")
            time.sleep(_POLL_SECONDS)
