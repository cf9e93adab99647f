"""ClearML without a server in the contract suite: what importing the session would bring."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from msgspec import structs

from bus.config import Settings
from bus.events import Event
from bus.kinds import Checkpoint
from bus.sinks import RunRef, Sink
from subscribers.clearml.offline.layout import Layout
from subscribers.clearml.sink import create
from tests.contract.cases import Points, SinkCase
from tests.fixtures.feed import Feed

__all__ = ["ClearmlOfflineCase"]


class ClearmlOfflineCase(SinkCase):
    """Session folders."""

    can_be_down: ClassVar = False
    statuses: ClassVar = {"completed": "completed", "failed": "failed", "killed": "stopped"}

    def make_sink(self) -> Sink:
        environ = {"TRAINBUS_HOME": str(self.folder / "home"), "TRAINBUS_CLEARML": "offline"}
        return create(Settings.from_environment(environ), environ)

    def points(self, run: RunRef) -> Points:
        # The importer sends every line; of one iteration, metric and variant the server keeps the
        # last.
        folder = self._layout(run).folder
        held: dict[tuple[str, int], float] = {}
        for line in (folder / "metrics.jsonl").read_text("ascii").splitlines():
            for event in json.loads(line):
                held[f"{event['metric']}/{event['variant']}", event["iter"]] = event["value"]
        return Counter((name, step, value) for (name, step), value in held.items())

    def status(self, run: RunRef) -> str:
        task: dict[str, Any] = json.loads((self._layout(run).folder / "task.json").read_text())
        return str(task["status"])

    def poison(self, feed: Feed) -> Event:
        # Of other checkpoints only the name is kept.
        event = super().poison(feed)
        assert isinstance(event.data, Checkpoint)
        return structs.replace(event, data=structs.replace(event.data, is_best=True))

    def close(self) -> None:
        """Nothing runs."""

    def _layout(self, run: RunRef) -> Layout:
        return Layout(Path(self.folder) / "home" / "clearml", run)
