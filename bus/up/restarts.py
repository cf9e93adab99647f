"""When a part that ended is started again. Pure: end times and statuses in, waits out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bus.retry import Backoff, RetryPolicy

__all__ = ["Restarts"]

_POLICY = RetryPolicy(initial_seconds=0.5, cap_seconds=30.0)

_STOOD_SECONDS = 30.0
"""A part that ran for so long was well: its next end is the first."""


@dataclass(slots=True)
class Restarts:
    """Says how long to wait before one part is started again.

    Attributes:
        clock: Monotonic seconds.
    """

    clock: Callable[[], float]
    backoff: Backoff = field(default_factory=lambda: Backoff(_POLICY))
    _started_at: float = field(default=0.0)

    def started(self) -> None:
        """The part runs from now on."""
        self._started_at = self.clock()

    def ended(self) -> float:
        """The part has ended by itself; seconds to wait."""
        if self.clock() - self._started_at >= _STOOD_SECONDS:
            self.backoff.reset()
        return self.backoff.next_seconds()
