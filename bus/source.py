"""The name of a source: one journal, written by one process of a run.

``/runs/{run}/{rank}/{attempt}-{start}-{random}/{node}``, with run and node written as topic levels
are, so that the text can be taken apart again. It is the CloudEvents ``source``; together with the
``id`` it names an event for ever.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from bus.errors import EventError
from bus.topics import decode_level, encode_level

__all__ = ["Source", "new_incarnation"]

_SOURCE = re.compile(
    r"/runs/([^/]+)/(\d{1,9})/(([1-9]\d{0,8})-[0-9a-f]+-[0-9a-f]{16})/([^/]+)", re.ASCII
)


_LOSS = "lost:"
"""Begins the node of a loss source. A colon cannot be mistaken: a host name holds none."""


def new_incarnation(attempt: int, start_seconds: float) -> str:
    """A name for one life of a process: attempt, start time (Unix seconds, hex), 64 random bits."""
    return f"{attempt}-{int(start_seconds):x}-{os.urandom(8).hex()}"


@dataclass(frozen=True, slots=True)
class Source:
    """One journal: run, rank, incarnation and node."""

    run: str
    rank: int
    incarnation: str
    node: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read the text form.

        Raises:
            EventError: It is no source of ours.
        """
        match = _SOURCE.fullmatch(text)
        if match is None:
            raise EventError("source", f"{text!r} is not /runs/RUN/RANK/INCARNATION/NODE")
        run, rank, incarnation, _, node = match.groups()
        return cls(
            decode_level(run, "source"), int(rank), incarnation, decode_level(node, "source")
        )

    @property
    def attempt(self) -> int:
        """Which try of its rank this is, from 1."""
        return int(self.incarnation.partition("-")[0])

    @property
    def started_seconds(self) -> int:
        """When its process began: Unix seconds by the clock of its node, rounded down."""
        return int(self.incarnation.split("-")[1], 16)

    def is_older_than(self, seconds: float) -> bool:
        """Whether its process surely began before a moment (Unix seconds).

        Names hold whole seconds, and a second is enough for a training to be asked to stop, to
        end, and to be started again: who began within the same second is not surely older.
        """
        return self.started_seconds + 1 <= seconds

    @property
    def is_loss(self) -> bool:
        """The log group's own journal about a node that it could not hear."""
        return self.node.startswith(_LOSS)

    def loss(self) -> Source:
        """The source of what the log group says about this one's node."""
        return Source(self.run, self.rank, self.incarnation, f"{_LOSS}{self.node}")

    def __str__(self) -> str:
        run, node = encode_level(self.run, "run"), encode_level(self.node, "node")
        return f"/runs/{run}/{self.rank}/{self.incarnation}/{node}"
