"""Where the demo keeps everything, and with which settings each of its processes runs. Pure.

Folder::

    FOLDER/
      demo.lock          held while a demo runs; also says that the folder is a demo's
      broker/            the embedded broker's
      log.db             the event log
      mlflow.db          MLflow's database
      mlartifacts/       MLflow's artifacts
      clearml/           ClearML sessions, to be imported
      hub/               what the stand-in of Ultralytics HUB has got, with --with-hub
      store/             the artifact store
      node-0/ node-1/    the spool of each node
      training/          what the training writes
      printed/           what every process printed
      receipt.json       the receipt
      receipt.txt        the same, to be read
"""

from __future__ import annotations

import re
import shlex
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NODES", "Progress", "Stage", "parse_progress", "program"]

NODES = ("node-0", "node-1")

_PRIVATE_PREFIXES = (
    *("TRAINBUS_", "MLFLOW_", "CLEARML_", "HUB_API_KEY", "ULTRALYTICS_"),
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_"),
)
"""Variables of the user's own work, which must not reach into the demo."""

_EPOCH = re.compile(r"^epoch (\d+)/(\d+)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is, in epochs."""

    done: int = 0
    total: int = 0

    @property
    def is_half_way(self) -> bool:
        """At least half of the epochs are done."""
        return self.total > 0 and 2 * self.done >= self.total


def parse_progress(printed: str) -> Progress:
    """The last ``epoch N/M`` that a training has printed."""
    found = _EPOCH.findall(printed)
    return Progress(int(found[-1][0]), int(found[-1][1])) if found else Progress()


@dataclass(frozen=True, slots=True)
class Stage:
    """The folder of one demo, and what follows from it.

    Attributes:
        folder: Absolute.
        broker: URL of the embedded broker.
        run: Id of the run that both nodes share.
        epochs: How long to train.
        hub: URL of the stand-in of Ultralytics HUB; None without it.
    """

    folder: Path
    broker: str
    run: str
    epochs: int
    hub: str | None = None

    @property
    def sinks(self) -> tuple[str, ...]:
        """The trackers."""
        return ("mlflow", "clearml") if self.hub is None else ("mlflow", "clearml", "hub")

    @property
    def mlflow_database(self) -> Path:
        """The file behind MLflow's tracking URI."""
        return self.folder / "mlflow.db"

    @property
    def mlflow_uri(self) -> str:
        """MLflow's tracking URI."""
        return f"sqlite:///{self.mlflow_database}"

    @property
    def clearml_folder(self) -> Path:
        """Where the ClearML worker puts its sessions."""
        return self.folder / "clearml"

    def import_command(self) -> str:
        """What a person types to bring the run into a ClearML server."""
        sessions = sorted(self.clearml_folder.glob("offline-*.zip"))
        path = sessions[0] if sessions else self.clearml_folder / "offline-….zip"
        return shlex.join(["clearml-task", "--import-offline-session", str(path)])

    @property
    def receipt(self) -> Path:
        """Where the receipt is kept."""
        return self.folder / "receipt.json"

    @property
    def receipt_text(self) -> Path:
        """Where the receipt is kept as people read it."""
        return self.folder / "receipt.txt"

    @property
    def ui_command(self) -> str:
        """What a person types to see the result."""
        return shlex.join([program("mlflow"), "ui", "--backend-store-uri", self.mlflow_uri])

    def spool(self, node: str) -> Path:
        """The spool of a node."""
        return self.folder / node / "spool"

    def environment(self, environ: Mapping[str, str], node: str | None = None) -> dict[str, str]:
        """The environment of a process: of a worker, or of one of the nodes."""
        result = {
            name: value for name, value in environ.items() if not name.startswith(_PRIVATE_PREFIXES)
        }
        result |= {
            "TRAINBUS_HOME": str(self.folder),
            "TRAINBUS_BROKER": self.broker,
            "TRAINBUS_LOG": f"sqlite:///{self.folder / 'log.db'}",
            "TRAINBUS_STORE": (self.folder / "store").as_uri(),
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "TRAINBUS_CLEARML": "offline",
            "TRAINBUS_CLEARML_FOLDER": str(self.clearml_folder),
            "PYTHONUNBUFFERED": "1",
        }
        if self.hub is not None:
            result |= {
                "HUB_API_KEY": "demo",
                "ULTRALYTICS_HUB_API": self.hub,
                "ULTRALYTICS_HUB_WEB": self.hub,
                # HUB's own are for trainings that take hours: a checkpoint every 15 minutes.
                "TRAINBUS_HUB_KIND_RATE": "metrics=2/s,checkpoint=2/s",
            }
        if node is not None:
            result |= {
                "TRAINBUS_SPOOL": str(self.spool(node)),
                "TRAINBUS_NODE": node,
                "TRAINBUS_NODES": str(len(NODES)),
                "TRAINBUS_RUN_ID": self.run,
                "TRAINBUS_SHIPPER": "off",  # the demo starts and ends it itself
                "RANK": str(NODES.index(node)),
                "WORLD_SIZE": str(len(NODES)),
                "OMP_NUM_THREADS": "1",
            }
        return result

    def hub_server(self, port: int) -> list[str]:
        """The command line of the stand-in of Ultralytics HUB."""
        module = "subscribers.hub.standin"
        folder = str(self.folder / "hub")
        return [sys.executable, "-P", "-m", module, "--port", str(port), "--folder", folder]

    def verify(self, *options: str) -> list[str]:
        """The command line that makes the receipt of all trackers."""
        chosen = [word for sink in self.sinks for word in ("--sink", sink)]
        return self.trainbus("verify", self.run, *chosen, *options)

    def worker(self, sink: str) -> list[str]:
        """The command line of a worker."""
        return self.trainbus("worker", sink)

    def shipper(self, node: str) -> list[str]:
        """The command line of a node's shipper."""
        return self.trainbus("ship", str(self.spool(node)))

    def training(self) -> list[str]:
        """The command line of the training, the same on both nodes."""
        return [
            sys.executable,
            "-P",  # no folder of the user's is taken for one of our packages
            "-m",
            "publishers.examples.digits",
            "--epochs",
            str(self.epochs),
            "--work-dir",
            str(self.folder / "training"),
        ]

    def trainbus(self, *arguments: str) -> list[str]:
        """A command of this installation, whatever PATH says."""
        return [program("trainbus"), *arguments]


def program(name: str) -> str:
    """A program that was installed together with this Python."""
    return str(Path(sysconfig.get_path("scripts")) / name)
