"""What goes into the event log and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from bus.idranges import IdRanges

__all__ = [
    "DISCARDED",
    "OPEN",
    "RESOLVED",
    "RETRIED",
    "AppendResult",
    "DeadLetter",
    "Group",
    "LogRecord",
    "LoggedEvent",
    "Loss",
    "RunCount",
    "RunSummary",
    "RunUnderWay",
    "Selection",
    "SourceState",
]


OPEN = "open"
RETRIED = "retried"
DISCARDED = "discarded"
RESOLVED = "resolved"
"""The states of a dead letter: given up; asked to be tried again; closed by a person; delivered
after all."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One event on its way into the log.

    Attributes:
        source: Text of :class:`bus.source.Source`.
        id: Sequence number in its source, from 1.
        time: When it happened, Unix seconds.
        raw: The exact bytes of the event, as they came.
    """

    source: str
    id: int
    run: str
    project: str
    run_name: str
    kind: str
    time: float
    raw: bytes


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event as the log holds it.

    Attributes:
        offset: Its number in the whole log, in the order of insertion.
        time: When it happened, Unix seconds.
        raw: The exact bytes that were stored.
    """

    offset: int
    source: str
    id: int
    kind: str
    time: float
    raw: bytes


@dataclass(frozen=True, slots=True)
class SourceState:
    """What the log holds of one source.

    Attributes:
        stored: Ids that need no waiting for: those in the log, and the lost ones.
        lost: Ids that no journal and no log holds any more.
        changed_at: When either last changed, Unix seconds by the clock of the log's writer.
    """

    source: str
    run: str
    project: str
    run_name: str
    stored: IdRanges
    lost: IdRanges
    changed_at: float


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What one append did.

    Attributes:
        states: Every source that was touched, by its name, also if by duplicates alone.
        duplicates: Records that were in the log already, conflicting ones included.
        conflicts: (source, id) of duplicates whose bytes differ, each once; the first stays in
            the log.
    """

    states: dict[str, SourceState]
    duplicates: int = 0
    conflicts: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events to read; what is None does not restrict.

    Attributes:
        run: One run id, or several.
        since: Events of this time or later, Unix seconds.
        until: Events before this time, Unix seconds.
        after_offset: Events above this offset. It filters, and is no cursor to follow the log
            by: with several writers a lower offset may appear later. Use ``changed_since``.
    """

    run: str | tuple[str, ...] | None = None
    project: str | None = None
    since: float | None = None
    until: float | None = None
    kinds: frozenset[str] | None = None
    source: str | None = None
    after_offset: int = 0


@dataclass(frozen=True, slots=True)
class RunCount:
    """How much of one run a selection holds."""

    project: str
    run: str
    run_name: str
    events: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run, as ``trainbus log ls`` shows it.

    Attributes:
        bytes: Size of its events.
        first_time: Earliest time of an event, Unix seconds.
        last_time: Latest time of an event, Unix seconds.
        status: "completed", "failed" or "killed" once the run has ended (:mod:`bus.lifecycle`).
        sources: How many journals wrote it.
        lost: How many events are lost for good.
    """

    project: str
    run: str
    run_name: str
    events: int
    bytes: int
    first_time: float
    last_time: float
    status: str | None
    sources: int
    lost: int


@dataclass(frozen=True, slots=True)
class RunUnderWay:
    """A run that has started and not ended, as far as the log knows.

    Attributes:
        sources: Its journals without an end, by name: neither one of their own nor by the word that
            their node is lost.
    """

    project: str
    run: str
    run_name: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loss:
    """Ids of a source that were given up.

    Attributes:
        first: First id.
        last: Last id, included.
        reason: Why, in words.
        time: When, Unix seconds.
    """

    source: str
    first: int
    last: int
    reason: str
    time: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event a group has given up.

    Attributes:
        source: Empty, with ``id`` 0, when the message could not be decoded.
        reason: Why, in a word or two, such as "permanent" or "undecodable".
        error: What the sink said.
        attempts: How often it was tried.
        time: When it was given up, Unix seconds.
        raw: The exact bytes of the message; empty where they were not asked for.
        state: ``open``, ``retried``, ``discarded`` or ``resolved``.
        state_at: When the state last changed, Unix seconds; None while it is the first.
        key: Its short number in the log; 0 for a letter that was not read from there.
    """

    group: str
    source: str
    id: int
    run: str
    project: str
    reason: str
    error: str
    attempts: int
    time: float
    raw: bytes
    state: str = OPEN
    state_at: float | None = field(default=None, compare=False)
    key: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Group:
    """A group that has worked with this log.

    Attributes:
        started_at: From when on changes of the log concern it, Unix seconds.
    """

    group: str
    shards: int
    started_at: float
