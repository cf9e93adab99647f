"""Which weights wait for their upload to HUB, and when that may be. Pure.

HUB has one place for the last weights and one for the best, and its clients send weights every 15
minutes. So what a run makes meanwhile waits: the latest best, and what came after it. Each is
replaced by the next of its kind; a best replaces the last ones before it too, for it is as good to
resume from. A final model ends all that.

What waits is kept with the marks: its event counts as applied, and the end of a run waits for no
quarter of an hour. An upload that fails is tried again later, and holds up no metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bus.events import Event
from bus.kinds import Blob, Checkpoint

__all__ = ["UPLOAD_SECONDS", "Pending", "Waiting"]

UPLOAD_SECONDS = 900.0
"""From one upload of a model to the next, as ``hub-sdk`` has it."""

_FIRST_AGAIN_SECONDS = 10.0
_MOST_DOUBLINGS = 16


@dataclass(frozen=True, slots=True)
class Waiting:
    """Weights that are to be uploaded: what their event says, so that no event has to be read."""

    source: str
    number: int
    dataref: str
    name: str
    size: int
    sha256: str
    epoch: int | None
    is_best: bool

    @classmethod
    def of(cls, event: Event) -> Waiting:
        """The weights of a checkpoint that is one file."""
        data = event.data
        assert isinstance(data, Checkpoint)
        blob = data.blob
        return cls(
            source=event.source,
            number=event.id,
            dataref=str(event.dataref),
            name=blob.name,
            size=blob.size,
            sha256=blob.sha256,
            epoch=data.epoch,
            is_best=data.is_best,
        )

    @property
    def id(self) -> tuple[str, int]:
        """Source and id of its event."""
        return self.source, self.number

    @property
    def blob(self) -> Blob:
        """Its bytes."""
        return Blob(self.name, self.size, self.sha256)


@dataclass(frozen=True, slots=True)
class Pending:
    """What waits of one run. Times are Unix seconds.

    Attributes:
        best: The latest best, unless it is uploaded.
        last: The latest that came after it.
        next_at: When something may be uploaded again.
        failures: Of uploads, since the last that worked.
    """

    best: Waiting | None = None
    last: Waiting | None = None
    next_at: float = 0.0
    failures: int = 0

    @classmethod
    def from_json(cls, kept: Mapping[str, Any] | None) -> Pending:
        """What :meth:`to_json` gave; nothing waits when nothing was kept."""
        if not kept:
            return cls()
        best, last = kept.get("best"), kept.get("last")
        return cls(
            Waiting(**best) if best else None,
            Waiting(**last) if last else None,
            float(kept["next_at"]),
            int(kept["failures"]),
        )

    def to_json(self) -> dict[str, Any]:
        """What is kept."""
        return asdict(self)

    @property
    def first(self) -> Waiting | None:
        """What goes next: the best before later ones."""
        return self.best or self.last

    def all(self) -> list[Waiting]:
        """All that waits."""
        return [one for one in (self.best, self.last) if one is not None]

    def add(self, new: Sequence[Waiting]) -> tuple[Pending, list[tuple[str, int]]]:
        """Let more wait, in order; returns also the ids whose place they take."""
        best, last, gone = self.best, self.last, []
        for one in new:
            replaced = (best, last) if one.is_best else (last,)
            gone += [old.id for old in replaced if old is not None]
            best, last = (one, None) if one.is_best else (best, one)
        return replace(self, best=best, last=last), gone

    def without(self, done: Waiting) -> Pending:
        """It waits no longer."""
        if self.best == done:
            return replace(self, best=None)
        return replace(self, last=None) if self.last == done else self

    def done(self, uploaded: Waiting, began: float) -> Pending:
        """It is uploaded; the next has its turn in a quarter of an hour."""
        return replace(self.without(uploaded), next_at=began + UPLOAD_SECONDS, failures=0)

    def failed(self, now: float, asked_seconds: float | None) -> Pending:
        """The upload failed for reasons that may pass."""
        wait = _FIRST_AGAIN_SECONDS * 2.0 ** min(self.failures, _MOST_DOUBLINGS)
        wait = max(min(wait, UPLOAD_SECONDS), asked_seconds or 0.0)
        return replace(self, next_at=now + wait, failures=self.failures + 1)
