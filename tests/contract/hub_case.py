"""HUB v1 in the contract suite: its stand-in as a process of the test's own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from bus.config import Settings
from bus.sinks import RunRef, Sink
from subscribers.hub.sink import create
from tests.contract.cases import Points, SinkCase
from tests.fixtures.hub import KEY
from tests.fixtures.hubprocess import HubProcess

__all__ = ["HubCase"]


class HubCase(SinkCase):
    """The stand-in. A model has no word for the end of a run: only a final model ends it."""

    statuses: ClassVar = {"completed": "training", "failed": "training", "killed": "training"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._server = HubProcess(folder / "hub")
        self._server.start()

    def make_sink(self) -> Sink:
        environ = {
            "TRAINBUS_HOME": str(self.folder / "home"),
            "HUB_API_KEY": KEY,
            "ULTRALYTICS_HUB_API": self._server.url,
        }
        return create(Settings.from_environment(environ), environ)

    def points(self, run: RunRef) -> Points:
        metrics = self._find(run)["metrics"]
        return Counter(
            (name, int(epoch), value)
            for epoch, values in metrics.items()
            for name, value in values.items()
        )

    def status(self, run: RunRef) -> str:
        return str(self._find(run)["status"])

    def break_down(self) -> None:
        self._server.kill()

    def hang(self) -> None:
        self._server.pause()

    def heal(self) -> None:
        self._server.kill()
        self._server.start()

    def close(self) -> None:
        self._server.kill()

    def _find(self, run: RunRef) -> dict[str, Any]:
        names = [(one["body"]["meta"]["name"], one) for one in self._server.models()]
        (model,) = [one for name, one in names if name == run.run_name]
        return model
