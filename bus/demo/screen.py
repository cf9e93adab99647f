"""What a person sees while the demo plays: on standard error, bars on a terminal, else lines."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bus.demo.stage import Progress as Epochs

__all__ = ["Screen"]

_LINES_PER_TRAINING = 4
"""Without a terminal, so many lines per node say how far it is."""


class Screen:
    """Shows the epochs of each node, the points in MLflow, and what happens."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    def epochs(self, node: str, epochs: Epochs) -> None:
        """Show how far a node is."""
        if not epochs.total:
            return
        self._bar(node, epochs.done, epochs.total, f"epoch {epochs.done}/{epochs.total}")
        quarter = epochs.done * _LINES_PER_TRAINING // epochs.total
        if not self._console.is_terminal and quarter > self._told.get(node, 0):
            self._told[node] = quarter
            self.say(f"{node}: epoch {epochs.done}/{epochs.total}")

    def points(self, number: int) -> None:
        """Show how many metric points MLflow holds."""
        self._bar("MLflow", None, None, f"{number:,} points")

    def _bar(self, name: str, done: float | None, total: float | None, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note=note)
        self._progress.update(self._tasks[name], completed=done, note=note)
