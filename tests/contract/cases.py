"""What the contract suite needs of each tracker: the sink, the tracker's faults, what it holds."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import ClassVar

from bus.events import Event
from bus.kinds import Blob, Checkpoint, Metrics, Number, Params, Table
from bus.sinks import RunRef, Sink
from tests.fixtures.feed import START, Feed

__all__ = ["EPOCHS", "Points", "SinkCase"]

EPOCHS = 6

Points = Counter[tuple[str, int, float]]
"""Metric points by name, step and value, and how often the tracker holds each."""


class SinkCase(ABC):
    """One sink with its tracker, alive from construction to :meth:`close`.

    Attributes:
        can_be_asked: The receipt asks the tracker what it holds, and not only our own marks.
        can_be_down: There is a server that can be away.
        statuses: What the tracker calls the ends of a run.
    """

    can_be_asked: ClassVar = True
    can_be_down: ClassVar = True
    statuses: ClassVar = {"completed": "completed", "failed": "failed", "killed": "killed"}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A store that is not there at all may come back.
        (folder / "store").mkdir()

    @abstractmethod
    def make_sink(self) -> Sink:
        """The sink as a worker makes it. Each call is another worker."""

    @abstractmethod
    def points(self, run: RunRef) -> Points:
        """What the tracker holds. May block."""

    @abstractmethod
    def status(self, run: RunRef) -> str:
        """What the tracker calls the state of a run. May block."""

    def break_down(self) -> None:
        """The tracker refuses every connection or request until it is healed."""
        raise NotImplementedError

    def hang(self) -> None:
        """The tracker accepts connections and answers nothing until it is healed."""
        raise NotImplementedError

    def heal(self) -> None:
        """The tracker works again."""
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """End the tracker."""

    def started(self, feed: Feed) -> list[Event]:
        """How a run begins that this sink takes."""
        return [feed.started(), feed.event("params", Params("General", {"epochs": EPOCHS}))]

    def epoch(self, feed: Feed, number: int) -> Event:
        """The metrics of one epoch."""
        row: list[Number] = [START + number, number, 1.0 / (number + 1), 0.5 + number / 64]
        return feed.event("metrics", Metrics([Table(["train/loss", "metrics/accuracy"], [row])]))

    def whole_run(self, feed: Feed, status: str = "completed") -> list[Event]:
        """A run from its start to its end."""
        # In this order: the feed counts.
        start = self.started(feed)
        epochs = [self.epoch(feed, number) for number in range(EPOCHS)]
        return [*start, *epochs, feed.finished(status)]

    def expected(self, epochs: int = EPOCHS) -> Points:
        """The points of the first epochs, each once."""
        found: Points = Counter()
        for number in range(epochs):
            found["train/loss", number, self.stored_value(1.0 / (number + 1))] += 1
            found["metrics/accuracy", number, self.stored_value(0.5 + number / 64)] += 1
        return found

    def stored_value(self, value: float) -> float:
        """A value as the tracker keeps it."""
        return value

    def poison(self, feed: Feed) -> Event:
        """An event that can never be written: its file is gone."""
        blob = Blob("last.pt", 4, "0" * 64)
        url = f"{(self.folder / 'store').as_uri()}/00/{blob.sha256}"
        return feed.event("checkpoint", Checkpoint(blob, epoch=1, is_best=True), url)

    async def ask(self, run: RunRef) -> tuple[Points, str]:
        """Points and status, without blocking the event loop."""
        return await asyncio.to_thread(lambda: (self.points(run), self.status(run)))
