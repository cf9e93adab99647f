"""What goes on beside the command when it was asked for: console lines and system readings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bus.config import Settings
from publishers.environment import Place
from publishers.lastwords import EndNote
from publishers.wrapper.child import Child
from publishers.wrapper.notes import Journals

if TYPE_CHECKING:
    from publishers.wrapper.run import Options

__all__ = ["Attached"]


class Attached:
    def __init__(
        self, settings: Settings, place: Place | None, wrapper: str, options: Options
    ) -> None:
        self.outputs: list[tuple[int, int]] = []
        self.runs: set[str] = set()

    def abandon(self) -> None: ...
    def start(self, child: Child) -> None: ...
    def tick(self) -> None: ...
    def finish(self, note: EndNote, journals: Journals) -> list[Path]:
        return []
