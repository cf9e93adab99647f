"""What a sink is: the contract between the worker and a tracker.

The worker does the sequencing, the retries, the batching and the dead letters. A sink only opens
runs and writes events, and says with its errors what to do next: ``RetryableSinkError`` to try
again later, ``PermanentSinkError`` to give an event up. Anything else it raises is tried a bounded
number of times and then treated as permanent.

Sinks are found by the entry-point group ``trainbus.sinks``: a callable that takes
:class:`bus.config.Settings` and the environment, and returns a :class:`Sink`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from bus.config import Settings
from bus.errors import ConfigError
from bus.events import Event
from bus.idranges import IdRanges
from bus.ratelimit import RateLimits

__all__ = [
    "BatchLimits",
    "KeepsAlive",
    "Marks",
    "PointCounter",
    "RateLimited",
    "ReportsState",
    "RunRef",
    "Sink",
    "SinkContents",
    "SinkFactory",
    "StopListener",
    "TellsToStop",
    "load_sink",
    "sink_names",
]


@dataclass(frozen=True, slots=True)
class RunRef:
    """A run as a sink is asked to find or create it."""

    project: str
    run: str
    run_name: str


@dataclass(slots=True)
class Marks:
    """What a sink holds of a run, per source.

    Attributes:
        applied: Ids written or given up. An id here is never written again.
        dead: Those of them that were given up as dead letters.
        superseded: Those of them that were left out because a later event takes their place.
    """

    applied: dict[str, IdRanges] = field(default_factory=dict)
    dead: dict[str, IdRanges] = field(default_factory=dict)
    superseded: dict[str, IdRanges] = field(default_factory=dict)

    def is_applied(self, source: str, number: int) -> bool:
        """Whether the event need not be written."""
        ranges = self.applied.get(source)
        return ranges is not None and number in ranges

    def add_applied(self, source: str, number: int) -> None:
        """Note an event as written."""
        self.applied.setdefault(source, IdRanges()).add(number)

    def add_dead(self, source: str, number: int) -> None:
        """Note an event as given up; it counts as applied too."""
        self.add_applied(source, number)
        self.dead.setdefault(source, IdRanges()).add(number)

    def is_dead(self, source: str, number: int) -> bool:
        """Whether the event was given up."""
        ranges = self.dead.get(source)
        return ranges is not None and number in ranges

    def revive(self, source: str, number: int) -> None:
        """Note an event that was given up as written after all."""
        self.add_applied(source, number)
        dead = self.dead.get(source)
        if dead is None:
            return
        rest = dead.without(IdRanges([(number, number)]))
        if rest:
            self.dead[source] = rest
        else:
            del self.dead[source]

    def add_superseded(self, source: str, number: int) -> None:
        """Note an event as left out; it counts as applied too."""
        self.add_applied(source, number)
        self.superseded.setdefault(source, IdRanges()).add(number)

    def copy(self) -> Marks:
        """Independent marks with the same ids."""
        return Marks(_copy(self.applied), _copy(self.dead), _copy(self.superseded))


def _copy(ids: Mapping[str, IdRanges]) -> dict[str, IdRanges]:
    return {source: ranges.copy() for source, ranges in ids.items()}


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much one call of :meth:`Sink.write` may hold at the most."""

    events: int = 500
    size_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SinkContents:
    """What a tracker says it holds of a run, for the receipt.

    Attributes:
        marks: The applied marks as the tracker holds them.
        points: Distinct metric points found there by counting; None when it cannot be counted.
        url: Where a person looks at the run, or None.
    """

    marks: Marks
    points: int | None = None
    url: str | None = None


class Sink(Protocol):
    """One tracker. All methods run on the worker's event loop and must not block it.

    Calls for one run never overlap; calls for different runs do.
    """

    @property
    def name(self) -> str:
        """The name of the sink, and by default of its group."""

    @property
    def limits(self) -> BatchLimits:
        """The largest batch it takes."""

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds it has a use for; others are counted as not applicable and never written."""

    async def open_run(self, run: RunRef) -> Marks:
        """Find the run in the tracker or create it, and read the applied marks it holds.

        Raises:
            RetryableSinkError: The tracker cannot be asked now.
            PermanentSinkError: The run cannot exist there.
        """

    async def write(self, run: RunRef, events: Sequence[Event], marks: Marks) -> None:
        """Write events in order, and ``marks`` in the same call where the tracker allows.

        Args:
            run: A run that was opened before.
            events: Of kinds in :attr:`kinds`, in order per source. A kind that had to wait for a
                limit of its own may come after later events of other kinds, but for
                ``run_finished``. May be empty: then only the marks are written.
            marks: The marks once these events are written, theirs included.

        Raises:
            RetryableSinkError: Nothing is known about what was written; all is sent again.
            PermanentSinkError: At least one event is refused. The worker finds which.
            MarksMovedError: The run's marks are not those this worker read or wrote last. Nothing
                was written.
        """

    async def close_run(self, run: RunRef) -> None:
        """Forget what is held in memory about a run; it may be opened again."""

    async def contents(self, run: RunRef) -> SinkContents | None:
        """Ask the tracker what it holds of a run, without creating it.

        Returns:
            None when the tracker has no such run.

        Raises:
            RetryableSinkError: The tracker cannot be asked now.
        """

    async def close(self) -> None:
        """Release connections and threads."""


@runtime_checkable
class PointCounter(Protocol):
    """A sink that can also say which metric points an event should leave in the tracker.

    ``trainbus verify`` compares how many distinct ones all events of a run have with
    :attr:`SinkContents.points`.
    """

    def expected_points(self, event: Event) -> Iterable[Hashable]:
        """The points of one event, equal where the tracker would keep only one of them."""


@runtime_checkable
class RateLimited(Protocol):
    """A sink that knows the limits of its tracker; what a user says goes before."""

    @property
    def rate_limits(self) -> RateLimits:
        """What it may be asked when nobody says more."""


@runtime_checkable
class KeepsAlive(Protocol):
    """A sink whose tracker wants to hear of a run from time to time while it is under way.

    The worker calls :meth:`keep_alive` for every run of its shards that has started and not ended,
    also when it has no events, and soon after it has taken a shard over. Which runs are under way
    it learns from the event log, or without that from what it has seen. Runs that were started for
    other sinks are left out; where that is not known the sink is called for them too.

    A call takes one token of the sink's rate limit, and only one that no write needs. One that
    fails is not tried again before its next time, and decides nothing about circuits; a pause it is
    asked for holds as any other. It is cancelled after 30 s, and when the shard moves.
    """

    @property
    def keep_alive_seconds(self) -> float:
        """The time from one call to the next."""

    async def keep_alive(self, run: RunRef) -> None:
        """Tell the tracker that the run is alive.

        The run need not be open, and need not be in the tracker: then nothing is to be done, least
        of all to create it. Other calls for the run may be under way meanwhile.

        Raises:
            SinkError: It cannot be told.
        """


@runtime_checkable
class ReportsState(Protocol):
    """A sink that has something to show in ``trainbus status``, such as uploads under way."""

    def state(self) -> dict[str, Any]:
        """A few fields that JSON can hold, for the heartbeat; empty when there is nothing."""


StopListener = Callable[[RunRef, str], None]
"""Takes a run that is to stop, and the reason in words."""


@runtime_checkable
class TellsToStop(Protocol):
    """A sink whose tracker may ask that a run is stopped, as Ultralytics Platform's does."""

    def tell_stops_to(self, listener: StopListener) -> None:
        """Call ``listener``, from the event loop, once for each run that is to stop."""


SinkFactory = Callable[[Settings, Mapping[str, str]], Sink]

_GROUP = "trainbus.sinks"


def sink_names() -> list[str]:
    """The names of all installed sinks."""
    return sorted({entry.name for entry in entry_points(group=_GROUP)})


def load_sink(name: str, settings: Settings, environ: Mapping[str, str]) -> Sink:
    """Make the sink that is installed under a name.

    Raises:
        ConfigError: There is none, its extra is not installed, or its settings are wrong.
    """
    for entry in entry_points(group=_GROUP, name=name):
        try:
            factory: SinkFactory = entry.load()
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"sink {name!r} needs {error.name}: pip install 'trainbus[{name}]'"
            ) from error
        return factory(settings, environ)
    raise ConfigError(f"no sink {name!r}; installed: {', '.join(sink_names()) or 'none'}")
