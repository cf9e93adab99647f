"""What the tests of the Platform sink share: runs as a training publishes them, and the sink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bus.artifacts import ArtifactStore
from bus.config import Settings
from bus.events import Event
from bus.kinds import Checkpoint, Metrics, Number, Params, Table
from bus.sinks import Marks
from subscribers.hub.http import Times
from subscribers.hub.keys import ApiKey
from subscribers.hub.platform.sink import KEY_VARIABLE, PlatformSink
from subscribers.hub.platform.windows import PRO, Plan
from subscribers.hub.state import StateStore
from tests.fixtures.feed import START, Feed
from tests.fixtures.platform import KEY, PlatformServer

__all__ = ["Training", "environ_of", "make_sink"]

TIMES = Times(connect_seconds=2.0, call_seconds=1.0, idle_seconds=1.0, upload_seconds=20.0)


def environ_of(url: str, home: Path, **more: str) -> dict[str, str]:
    """The environment of a worker."""
    return {
        "TRAINBUS_HOME": str(home),
        "ULTRALYTICS_PLATFORM_URL": url,
        "ULTRALYTICS_API_KEY": KEY,
        "TRAINBUS_PLATFORM_PLAN": "pro",
        **more,
    }


def make_sink(
    platform: PlatformServer, home: Path, plan: Plan = PRO, **changes: Any
) -> PlatformSink:
    """Another worker's sink, with short time limits."""
    environ = environ_of(platform.url, home)
    store = StateStore.of(Settings.from_environment(environ), "hub", "platform")
    key = ApiKey(KEY, KEY_VARIABLE, "Authorization", "Bearer")
    return PlatformSink(store, platform.url, key, plan, **{"times": TIMES, **changes})


class Training:
    """The events of a training of a few epochs, as an integration publishes them."""

    def __init__(self, folder: Path, run: str = "r1", project: str = "me/proj") -> None:
        self.feed = Feed(run, project)
        self.ref = self.feed.ref
        self.folder = folder
        self.store = ArtifactStore((folder / "store").as_uri())
        self.marks = Marks()

    def begin(self, **config: Any) -> list[Event]:
        params = {"model": "yolo11n.yaml", "epochs": 3, "device": "cpu", "time": None, "lr0": 0.01}
        started = self.feed.started(host="node-1", program="train.py", config=config)
        return [started, self.feed.event("params", Params("General", params))]

    def row(self, epoch: int, **values: Number) -> Event:
        row = [START + epoch, epoch, *values.values()]
        return self.feed.event("metrics", Metrics([Table(list(values), [row])]))

    def epoch(self, number: int) -> list[Event]:
        """Losses first and the evaluation in a call of its own, as trainings log them."""
        return [
            self.row(number, loss=1.0 / (number + 1)),
            self.row(number, accuracy=0.5 + number / 64, fitness=0.5 + number / 64),
        ]

    def checkpoint(
        self, epoch: int, content: bytes = b"weights", name: str = "best.pt", **fields: Any
    ) -> Event:
        self.folder.mkdir(exist_ok=True)
        file = self.folder / name
        file.write_bytes(content)
        blob, url = self.feed.stored(self.store, file)
        return self.feed.event("checkpoint", Checkpoint(blob, epoch=epoch, **fields), url)

    def whole(self, status: str = "completed", epochs: int = 3) -> list[Event]:
        """A run from start to end."""
        events = self.begin()
        for number in range(epochs):
            events += self.epoch(number)
        events.append(self.checkpoint(epochs - 1, is_best=True, is_final=True))
        return [*events, self.feed.finished(status)]

    async def write(self, sink: PlatformSink, events: list[Event]) -> None:
        """Write a batch as the worker does."""
        after = self.marks.copy()
        for event in events:
            after.add_applied(event.source, event.id)
        await sink.write(self.ref, events, after)
        self.marks = after
