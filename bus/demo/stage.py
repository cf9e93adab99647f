"""Where the demo keeps everything, and with which settings each of its processes runs. Pure.

Folder::

    FOLDER/
      demo.lock          held while a demo runs; also says that the folder is a demo's
      broker/            the embedded broker's
      log.db             the event log
      mlflow.db          MLflow's database
      mlartifacts/       MLflow's artifacts
      store/             the artifact store
      node-0/ node-1/    the spool of each node
      training/          what the training writes
      printed/           what every process printed
      receipt.json       the receipt
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

_PRIVATE_PREFIXES = ("TRAINBUS_", "MLFLOW_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_")
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
    """

    folder: Path
    broker: str
    run: str
    epochs: int

    @property
    def mlflow_database(self) -> Path:
        """The file behind MLflow's tracking URI."""
        return self.folder / "mlflow.db"

    @property
    def mlflow_uri(self) -> str:
        """MLflow's tracking URI."""
        return f"sqlite:///{self.mlflow_database}"

    @property
    def receipt(self) -> Path:
        """Where the receipt is kept."""
        return self.folder / "receipt.json"

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
            "PYTHONUNBUFFERED": "1",
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
