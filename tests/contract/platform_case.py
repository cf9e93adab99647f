"""Ultralytics Platform in the contract suite: its stand-in, in a thread."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar

from bus.config import Settings
from bus.sinks import RunRef, Sink
from subscribers.hub.platform.names import model_name
from subscribers.hub.sink import create
from tests.contract.cases import Points, SinkCase
from tests.fixtures.platform import KEY, Faults, Model, PlatformServer

__all__ = ["PlatformCase"]


class PlatformCase(SinkCase):
    """The stand-in."""

    can_be_asked: ClassVar = False
    statuses: ClassVar = {"completed": "completed", "failed": "failed", "killed": "failed"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._server = PlatformServer()
        self._server.start()

    def make_sink(self) -> Sink:
        environ = {
            "TRAINBUS_HOME": str(self.folder / "home"),
            "ULTRALYTICS_API_KEY": KEY,
            "ULTRALYTICS_PLATFORM_URL": self._server.url,
            "TRAINBUS_PLATFORM_PLAN": "pro",
        }
        return create(Settings.from_environment(environ), environ)

    def points(self, run: RunRef) -> Points:
        return Counter(
            (name, epoch["epoch"], value)
            for epoch in self._find(run).of("epoch_end")
            for name, value in epoch["metrics"].items()
        )

    def status(self, run: RunRef) -> str:
        return self._find(run).status

    def break_down(self) -> None:
        self._server.break_down()

    def hang(self) -> None:
        self._server.faults = Faults(is_hanging=True)

    def heal(self) -> None:
        self._server.heal()

    def close(self) -> None:
        self._server.stop()

    def _find(self, run: RunRef) -> Model:
        return self._server.model(model_name(run.run_name))
