"""A source while it is being shipped: its journal, and what became of each event."""

from __future__ import annotations

from dataclasses import dataclass, field

from publishers.shipper.outbox import Outbox
from publishers.shipper.source import JournalSource

__all__ = ["Active"]


@dataclass(slots=True)
class Active:
    """A source that is being shipped.

    Attributes:
        unsent: The size of each event not yet published.
        busy_at: When it last had something to read (monotonic seconds).
        checked_at: When its process was last looked after (monotonic seconds).
    """

    journal: JournalSource
    outbox: Outbox
    unsent: dict[int, int] = field(default_factory=dict)
    busy_at: float = float("-inf")
    checked_at: float = float("-inf")

    def about(self, text: str) -> str:
        """A message about it: of which run and which folder."""
        return f"run {self.journal.run}: {self.journal.folder.name}: {text}"
