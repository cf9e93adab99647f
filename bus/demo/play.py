"""Plays the demo: starts every part, kills one half way, waits for the receipt, ends every part."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from bus.broker import EmbeddedBroker, EngineName
from bus.broker.probe import free_port
from bus.demo.children import Child, Children
from bus.demo.folder import fresh_folder
from bus.demo.screen import Screen
from bus.demo.stage import NODES, Progress, Stage, parse_progress
from bus.errors import TrainbusError

__all__ = ["DemoOptions", "play"]

_POLL_SECONDS = 0.1
_COUNT_SECONDS = 0.5
_TRAINING_SECONDS = 240.0
_RECEIPT_SECONDS = 60.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How the demo is played.

    Attributes:
        folder: Of everything it writes; emptied first when an earlier demo made it.
        epochs: How long to train.
        engine: Which broker program.
        has_hub: Deliver to a stand-in of Ultralytics HUB too.
    """

    folder: Path
    epochs: int = 40
    engine: EngineName = "auto"
    has_hub: bool = False


def play(
    options: DemoOptions, environ: Mapping[str, str], screen: Screen
) -> tuple[Stage, dict[str, Any]]:
    """Play it, and give the stage that is left with the receipt as ``trainbus verify`` made it.

    Raises:
        ConfigError: The folder cannot be used, or there is no broker program.
        TrainbusError: A part ended that should not have.
        KeyboardInterrupt: A signal came. All processes have ended by then.
    """
    with _interrupted_by_signals(), fresh_folder(options.folder) as folder:
        broker = EmbeddedBroker(folder / "broker", options.engine)
        children = Children(folder, folder / "printed")
        try:
            address = broker.start()
            screen.say(f"broker: {broker.engine} on {address}")
            port = free_port("127.0.0.1") if options.has_hub else None
            stage = Stage(
                folder,
                str(address),
                f"demo-{int(time.time())}",
                options.epochs,
                None if port is None else f"http://127.0.0.1:{port}",
            )
            play = _Play(stage, children, environ, screen)
            if port is not None:
                play.start_hub(port)
            return stage, play.receipt()
        finally:
            _ignore_signals()
            children.stop_all()
            broker.stop()


class _Play:
    """One demo on its stage."""

    def __init__(
        self, stage: Stage, children: Children, environ: Mapping[str, str], screen: Screen
    ) -> None:
        self._stage = stage
        self._children = children
        self._screen = screen
        self._worker_environ = stage.environment(environ)
        self._node_environ = {node: stage.environment(environ, node) for node in NODES}
        self._servants: dict[str, Child] = {}
        self._trainings: dict[str, Child] = {}
        self._points = 0
        self._count_at = 0.0

    def receipt(self) -> dict[str, Any]:
        """Play everything; the last receipt, complete or not."""
        self._start()
        self._follow_training()
        self._screen.say("training has ended; counting what arrived")
        receipt = self._await_receipt()
        self._stage.receipt.write_bytes(orjson.dumps(receipt, option=orjson.OPT_INDENT_2))
        # Now: the stand-in of a tracker ends with the demo, and cannot be asked afterwards.
        self._stage.receipt_text.write_bytes(self._ask(self._stage.verify()).stdout)
        return receipt

    def start_hub(self, port: int) -> None:
        """Start the stand-in of Ultralytics HUB."""
        self._servants["hub server"] = self._children.start(
            "hub server", self._stage.hub_server(port), self._worker_environ
        )
        self._screen.say(f"a stand-in of Ultralytics HUB: {self._stage.hub}")

    def _start(self) -> None:
        for sink in ("log", *self._stage.sinks):
            self._start_worker(sink)
        for node in NODES:
            (self._stage.spool(node) / "sources").mkdir(parents=True)
            self._servants[f"shipper {node}"] = self._children.start(
                f"shipper {node}", self._stage.shipper(node), self._node_environ[node]
            )
        for node in NODES:
            self._trainings[node] = self._children.start(
                f"training {node}", self._stage.training(), self._node_environ[node]
            )
        self._screen.say(
            f"run {self._stage.run}: training on {' and '.join(NODES)}, "
            f"each with its shipper; workers: {', '.join(('log', *self._stage.sinks))}"
        )

    def _start_worker(self, sink: str) -> None:
        self._servants[sink] = self._children.start(
            f"worker {sink}", self._stage.worker(sink), self._worker_environ
        )

    def _follow_training(self) -> None:
        """Until both nodes are done and the MLflow worker was killed and replaced once."""
        deadline = time.monotonic() + _TRAINING_SECONDS
        has_killed = False
        while not (has_killed and all(one.status == 0 for one in self._trainings.values())):
            self._check()
            epochs = self._show()
            if not has_killed and self._points and all(one.is_half_way for one in epochs):
                self._kill_worker()
                has_killed = True
            if time.monotonic() > deadline:
                raise TrainbusError(
                    f"the training has not ended after {_TRAINING_SECONDS:.0f} s: "
                    f"see {self._stage.folder / 'printed'}"
                )
            time.sleep(_POLL_SECONDS)
        self._show()

    def _check(self) -> None:
        """Nothing has ended that should still run."""
        for servant in self._servants.values():
            if servant.status is not None:
                raise servant.failure()
        for training in self._trainings.values():
            if training.status not in (None, 0):
                raise training.failure()

    def _show(self) -> list[Progress]:
        now = time.monotonic()
        if now >= self._count_at:
            self._points = count_points(self._stage.mlflow_database)
            self._count_at = now + _COUNT_SECONDS
            self._screen.points(self._points)
        epochs = [parse_progress(one.output()) for one in self._trainings.values()]
        for node, progress in zip(NODES, epochs, strict=True):
            self._screen.epochs(node, progress)
        return epochs

    def _kill_worker(self) -> None:
        victim = self._servants["mlflow"]
        victim.kill()
        self._screen.say(
            f"half way: killed the mlflow worker (SIGKILL, pid {victim.process.pid}) with "
            f"{self._points:,} points in MLflow; starting another"
        )
        self._start_worker("mlflow")

    def _await_receipt(self) -> dict[str, Any]:
        deadline = time.monotonic() + _RECEIPT_SECONDS
        command = self._stage.verify("--json")
        while True:
            self._check()
            self._show()
            done = self._ask(command)
            is_last = time.monotonic() > deadline
            if done.stdout:
                receipt: dict[str, Any] = orjson.loads(done.stdout)
                if is_last or (receipt["complete"] and receipt["status"]):
                    return receipt
            elif is_last:
                raise TrainbusError(f"no receipt: {done.stderr.decode(errors='replace').strip()}")
            time.sleep(_POLL_SECONDS)

    def _ask(self, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                command,
                env=self._worker_environ,
                cwd=self._stage.folder,
                capture_output=True,
                timeout=_RECEIPT_SECONDS,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TrainbusError(
                f"no receipt: trainbus verify takes over {_RECEIPT_SECONDS:.0f} s"
            ) from error


def count_points(database: Path) -> int:
    """How many metric points MLflow's database holds; 0 while there is none to read."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            number: int = connection.execute("SELECT count(*) FROM metrics").fetchone()[0]
            return number
    except sqlite3.OperationalError:
        return 0


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let the signals that end a program end the demo as Ctrl-C does, its processes with it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        # Under nohup a hangup is ignored, and stays so.
        if (number, handler) != (signal.SIGHUP, signal.SIG_IGN):
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """The end is bounded and must not be cut short: a second Ctrl-C changes nothing."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
