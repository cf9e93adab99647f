"""How often and how soon the upload of a final model is tried. Pure.

The worker tries again for ever, with waits of at most half a minute. A final model has ten tries
within an hour, as in the original client, with the waits doubled from try to try; then it becomes a
dead letter. The count is kept with the marks, so that a new owner goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FinalTries"]

_TRIES = 10
_WITHIN_SECONDS = 3600.0
_FIRST_WAIT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class FinalTries:
    """The tries of one final upload. Times are Unix seconds.

    Attributes:
        source: Of the event.
        number: Its id.
        tries: How many were begun.
        since: When the first was.
        next_at: When the next may be.
    """

    source: str
    number: int
    tries: int = 0
    since: float = 0.0
    next_at: float = 0.0

    @classmethod
    def of(cls, kept: object, source: str, number: int, is_dead: bool, now: float) -> FinalTries:
        """What is known of the tries of an event; none if it is another, or was given up before.

        Args:
            kept: What :meth:`to_json` gave; anything else counts as nothing.
            source: Of the event.
            number: Its id.
            is_dead: It is a dead letter that somebody wants tried again.
            now: The time.
        """
        if isinstance(kept, Mapping):
            try:
                found = cls(**kept)
            except TypeError:
                return cls(source, number)
            is_new_start = is_dead and found.is_over(now)
            if (found.source, found.number) == (source, number) and not is_new_start:
                return found
        return cls(source, number)

    def to_json(self) -> dict[str, Any]:
        """What is kept."""
        return {
            "source": self.source,
            "number": self.number,
            "tries": self.tries,
            "since": self.since,
            "next_at": self.next_at,
        }

    def is_over(self, now: float) -> bool:
        """There are to be no more tries."""
        is_late = self.tries > 0 and now >= self.since + _WITHIN_SECONDS
        return self.tries >= _TRIES or is_late

    def begin(self, now: float) -> FinalTries:
        """Count a try."""
        wait = _FIRST_WAIT_SECONDS * 2.0**self.tries
        return FinalTries(
            *(self.source, self.number, self.tries + 1),
            since=self.since if self.tries else now,
            next_at=now + wait,
        )
