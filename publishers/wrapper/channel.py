"""The wrapper's own journal in a run: what its command prints, and how busy the machine is.

It stands beside the journals of the training and must not count as one of its processes: it names
no world, and its end is that of a rank no world has (:data:`WRAPPER_RANK`). Its source bears the
rank of the training process it belongs to, so that trackers that listen to rank 0 hear it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bus.source import Source, new_incarnation
from publishers.journal.folder import make_source_folder
from publishers.journal.format import (
    COMMAND_END_NAME,
    FORMAT_VERSION,
    SegmentHeader,
    make_payload,
)
from publishers.journal.writer import JournalWriter
from publishers.lastwords import EndNote, leave_note
from publishers.wrapper.backlog import Entry

__all__ = ["WRAPPER_RANK", "Channel", "Identity"]

WRAPPER_RANK = 999_999_999
"""Stands for the wrapper in the life of a run; a rank beyond the world does not count there."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose lines they are."""

    run: str
    project: str
    name: str
    rank: int
    attempt: int
    node: str

    @classmethod
    def of_journal(cls, header: SegmentHeader) -> Identity:
        """Of a training process, by its journal.

        Raises:
            EventError: The journal's name is none of ours.
        """
        source = Source.parse(header.source)
        return cls(
            header.run, header.project, header.run_name, source.rank, source.attempt, source.node
        )

    @property
    def key(self) -> tuple[str, str]:
        """Project and run."""
        return self.project, self.run


class Channel:
    """A journal for console lines and readings. To be used by one thread."""

    def __init__(self, identity: Identity, spool: Path, pid: int) -> None:
        """Make the journal.

        Raises:
            OSError: The spool cannot be written.
            EventError: The run's name cannot be part of a source.
        """
        self.identity = identity
        self._lost = 0
        incarnation = new_incarnation(identity.attempt, time.time())
        source = str(Source(identity.run, identity.rank, incarnation, identity.node))

        def header(segment: int) -> bytes:
            return msgspec.json.encode(
                SegmentHeader(
                    journal=FORMAT_VERSION,
                    segment=segment,
                    source=source,
                    run=identity.run,
                    project=identity.project,
                    run_name=identity.name,
                    pid=pid,
                )
            )

        self._folder = make_source_folder(spool, identity.rank, incarnation)
        self._journal = JournalWriter(self._folder.path, header, self._on_failure, self._recovery)
        with suppress(OSError):
            # Should the wrapper be killed, the training must not be taken for dead with it.
            words = EndNote("killed", "trainbus run was killed", rank=WRAPPER_RANK)
            leave_note(self._folder.path, COMMAND_END_NAME, words)

    @property
    def path(self) -> Path:
        """The folder of the journal."""
        return self._folder.path

    def write(self, entries: Iterable[Entry]) -> None:
        """Write what has gathered. What the disk does not take is counted."""
        prefix = f"rank{self.identity.rank}/" if self.identity.rank else ""
        for kind, seconds, data in entries:
            if kind == "system" and prefix:
                values = data["values"]
                data = {"values": {prefix + name: value for name, value in values.items()}}
            self._journal.append(make_payload({"kind": kind, "time": seconds, "data": data}))

    def finish(self, dropped: int) -> None:
        """Write the end, and let the shipper have it.

        Args:
            dropped: How many lines were left out.
        """
        counts = {"console": dropped, "io_error": self._lost}
        data = {
            "status": "completed",
            "error": "",
            "dropped": {cause: count for cause, count in counts.items() if count},
            "rank": WRAPPER_RANK,
            "attempt": self.identity.attempt,
        }
        self._journal.append(
            make_payload({"kind": "run_finished", "time": time.time(), "data": data})
        )
        self._journal.close()
        self._folder.unlock()

    def _on_failure(self, _: OSError) -> None:
        self._lost += 1

    def _recovery(self) -> bytes:
        lines = [f"[trainbus: {self._lost} events were lost, the disk took nothing]"]
        return make_payload({"kind": "console", "time": time.time(), "data": {"lines": lines}})
