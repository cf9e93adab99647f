"""ClearML in the contract suite: the live sink against the stand-in of its API."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar

from bus.sinks import RunRef, Sink
from tests.contract.cases import Points, SinkCase
from tests.fixtures.clearml.server import SINGLE_VALUE_ITERATION, ClearmlServer
from tests.integration.clearml_feed import make_live, task_of

__all__ = ["ClearmlLiveCase"]


class ClearmlLiveCase(SinkCase):
    """The stand-in of the ClearML API."""

    statuses: ClassVar = {"completed": "completed", "failed": "failed", "killed": "stopped"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._server = ClearmlServer()
        self._server.start()

    def make_sink(self) -> Sink:
        return make_live(self._server, self.folder / "home")

    def points(self, run: RunRef) -> Points:
        task = task_of(self._server, run)["id"]
        return Counter(
            (f"{event['metric']}/{event['variant']}", event["iter"], event["value"])
            for event in self._server.events(task, "training_stats_scalar")
            if event["iter"] != SINGLE_VALUE_ITERATION
        )

    def status(self, run: RunRef) -> str:
        return str(task_of(self._server, run)["status"])

    def break_down(self) -> None:
        self._server.stop()

    def hang(self) -> None:
        self._server.faults.hang("*")

    def heal(self) -> None:
        self._server.faults.clear()
        self._server.stop()
        self._server.start()

    def close(self) -> None:
        self._server.faults.clear()
        self._server.stop()
