"""What a sink worker knows about one run: which events it holds, owes, waits for or may let go.

Pure: events, stored-acks and times in; batches, wanted ranges and deliveries to acknowledge out.

Per source the events are gone through in the order of their ids: those that are applied or parked
are passed over, and the first that is neither is the *next*. An id can come live from the bus or
from the event log; both end in the same place, so that a hole, a lost tail, a sink that was down, a
group that starts late and a worker that takes over marks with holes are one mechanism:

- an id that is applied is dropped, whichever way it came;
- an id is handed out only when all ids below it are, or are *parked*: of a kind that has a limit of
  its own and no token (:mod:`bus.parked`). Nobody passes an event that has not been seen;
- an id that is missing and stored in the log is *wanted* from there. Missing means: something
  above it is here, or it was let go of, or the log has it and it has not come for a second;
- a delivery may be acknowledged before the sink has it once the log has it (*let go*): the run
  goes on from the log then, and its shard is free for others;
- a dead letter that is to be tried again (*retry*) has no place in that order: its id is applied,
  and dead. It waits apart, and nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from bus.idranges import IdRanges
from bus.item import Id, Item, deliveries, merge
from bus.mqtt import Delivery
from bus.parked import has_to_wait
from bus.sinks import BatchLimits, Marks
from bus.sourcefeed import SourceFeed

__all__ = ["Item", "RunFeed"]


class RunFeed:
    """The events of one run on their way to one sink.

    ``blocked`` are everywhere the kinds that have a limit of their own and no token now, and
    ``left_out`` the events that are not to be written, and so need no token.

    Args:
        marks: What the sink has applied; this object keeps it up to date as batches settle.
    """

    def __init__(self, marks: Marks | None = None) -> None:
        self.marks = marks or Marks()
        self._sources: dict[str, SourceFeed] = {}
        self._retries: dict[Id, Item] = {}

    def open(self, marks: Marks) -> list[Delivery]:
        """Take over the marks that the sink holds; returns deliveries it turns out to have."""
        self.marks = marks
        again = [item for feed in self._sources.values() for item in feed.open(marks)]
        # Where the sink has forgotten that it was given up, it is an event as any other.
        forgotten = [key for key in self._retries if not marks.is_applied(*key)]
        again += [self._retries.pop(key) for key in forgotten]
        settled = [self.offer(item) for item in again]
        return [delivery for delivery in settled if delivery is not None]

    def offer(self, item: Item) -> Delivery | None:
        """Take an event in.

        Returns:
            A delivery to acknowledge at once: of an event that is applied, or here already.
        """
        key = (item.source, item.number)
        if not self.marks.is_applied(*key):
            return self._source(item.source).offer(item)
        if not self._is_wanted_again(item):
            return item.delivery
        known = self._retries.setdefault(key, item)
        return None if known is item else merge(known, item)

    def has(self, source: str, number: int) -> bool:
        """The event is here or in hand."""
        feed = self._sources.get(source)
        is_waiting = feed is not None and (
            number in feed.pending or number in feed.parked or number in feed.in_hand
        )
        return is_waiting or (source, number) in self._retries

    def next_retry(self, blocked: Collection[str] = ()) -> Item | None:
        """A dead letter to try again, if there is one; it stays here until :meth:`settle_retry`.

        Where the marks do not call it dead, an earlier try has got through.
        """
        free = (item for item in self._retries.values() if not has_to_wait(item, blocked))
        return next(free, None)

    def settle_retry(self, item: Item) -> list[Delivery]:
        """It is written, or given up once more, and the marks say so: what to acknowledge."""
        self._retries.pop((item.source, item.number), None)
        return deliveries(item)

    def stored(self, source: str, stored: IdRanges, lost: IdRanges | None = None) -> None:
        """The event log holds these ids of a source; ``lost`` are those that will never come."""
        feed = self._source(source)
        feed.stored = stored
        if lost:
            feed.lost = lost

    def peek(
        self, limits: BatchLimits, blocked: Collection[str] = (), left_out: Collection[Id] = ()
    ) -> list[Item]:
        """The next batch, in order per source. What has to wait is parked on the way."""
        batch: list[Item] = []
        size = 0
        for source, feed in self._sources.items():
            for item in feed.ready(blocked, _of(source, left_out)):
                size += len(item.raw)
                if batch and (size > limits.size_bytes or len(batch) >= limits.events):
                    return batch
                batch.append(item)
        return batch

    def take(
        self, limits: BatchLimits, blocked: Collection[str] = (), left_out: Collection[Id] = ()
    ) -> list[Item]:
        """Take the next batch. It is in hand until :meth:`settle`, and the only one meanwhile."""
        batch = self.peek(limits, blocked, left_out)
        for item in batch:
            self._sources[item.source].take(item)
        return batch

    def settle(self, items: Iterable[Item]) -> list[Delivery]:
        """These events are written or given up, and the marks say so: what to acknowledge."""
        done: list[Delivery] = []
        for item in items:
            self._source(item.source).in_hand.pop(item.number, None)
            done += deliveries(item)
        return done

    def put_back(self, items: Iterable[Item]) -> list[Delivery]:
        """The batch broke off: what of it is not applied is waiting again.

        Returns:
            What to acknowledge: the sink has a part of the batch.
        """
        done: list[Delivery] = []
        for item in items:
            feed = self._source(item.source)
            feed.in_hand.pop(item.number, None)
            if self.marks.is_applied(item.source, item.number):
                done += deliveries(item)
            else:
                feed.put_back(item)
        return done

    def wanted(self, now: float) -> list[tuple[str, int, int]]:
        """The ranges (source, first, last) to read from the event log now."""
        feeds = self._sources.items()
        return [(source, *ids) for source, feed in feeds for ids in feed.wanted(now)]

    def wanted_parked(self, blocked: Collection[str]) -> list[tuple[str, int, int, str]]:
        """The ranges (source, first, last, kind) of parked events to read from the log now.

        Their kinds have tokens. Nobody but their own kind and the end of the source waits for them.
        """
        feeds = self._sources.items()
        return [(source, *ids) for source, feed in feeds for ids in feed.parked.wanted(blocked)]

    def gaps(self) -> list[tuple[str, int, int]]:
        """Ranges missing below events that are here: what a worker without a log reports."""
        return [(source, *ids) for source, feed in self._sources.items() for ids in feed.gaps()]

    def let_go(
        self, now: float, patience_seconds: float, parked_seconds: float | None = None
    ) -> list[Delivery]:
        """Deliveries that have waited for so long and are safe in the log: to acknowledge now.

        Args:
            now: The time.
            patience_seconds: For how long.
            parked_seconds: The same for those that are parked; by default no other.
        """
        parked_seconds = patience_seconds if parked_seconds is None else parked_seconds
        done: list[Delivery] = []
        for feed in self._sources.values():
            done += feed.let_go(now, patience_seconds, parked_seconds)
        return done

    def is_quiet(self) -> bool:
        """Nothing is here, parked, in hand, or known to be missing."""
        return not self._retries and all(
            not (feed.pending or feed.parked or feed.in_hand) and feed.is_complete
            for feed in self._sources.values()
        )

    def is_held(self) -> bool:
        """Where nothing can be taken: all that is waited for are tokens of parked kinds."""
        return not self._retries and all(
            not feed.in_hand and (feed.next in feed.pending if feed.pending else feed.is_complete)
            for feed in self._sources.values()
        )

    def is_ending(self) -> bool:
        """The end of some source is here and waits for what is parked."""
        return any(feed.is_ending for feed in self._sources.values())

    def has_work(self, blocked: Collection[str] = (), left_out: Collection[Id] = ()) -> bool:
        """Something can be taken."""
        return any(
            next(feed.ready(blocked, _of(source, left_out)), None) is not None
            for source, feed in self._sources.items()
        )

    def parked(self) -> list[Item]:
        """The parked events that are here."""
        return [item for feed in self._sources.values() for item in feed.parked.items()]

    def parked_kinds(self) -> set[str]:
        """The kinds of all that is parked, here or in the log."""
        return {kind for feed in self._sources.values() for kind in feed.parked.kinds}

    def first_parked(self, kind: str) -> dict[str, int]:
        """Per source, the first parked id of a kind."""
        firsts = {source: feed.parked.first(kind) for source, feed in self._sources.items()}
        return {source: first for source, first in firsts.items() if first is not None}

    def held(self) -> int:
        """Deliveries that wait for an acknowledgement."""
        here = [item for feed in self._sources.values() for item in _items(feed)]
        return sum(1 for item in (*here, *self._retries.values()) if item.delivery is not None)

    def lag(self) -> int:
        """Events that the log has and the sink has not."""
        return sum(feed.lag for feed in self._sources.values())

    def heads(self) -> list[Item]:
        """The first event of each source that waits here."""
        waiting = [list(_items(feed)) for feed in self._sources.values()]
        return [min(items, key=lambda item: item.number) for items in waiting if items]

    def let_go_since(self) -> float | None:
        """When the first event that is left to the log had come; None when there is none."""
        since = [feed.let_go_since() for feed in self._sources.values()]
        return min((at for at in since if at is not None), default=None)

    def _is_wanted_again(self, item: Item) -> bool:
        """A retry of a dead letter; from the log also one that was written: it is to be noted."""
        is_dead = self.marks.is_dead(item.source, item.number)
        return item.is_retry and (is_dead or item.delivery is None)

    def _source(self, source: str) -> SourceFeed:
        feed = self._sources.get(source)
        if feed is None:
            feed = self._sources[source] = SourceFeed(source, self.marks)
        return feed


def _items(feed: SourceFeed) -> Iterator[Item]:
    yield from feed.pending.values()
    yield from feed.parked.items()
    yield from feed.in_hand.values()


def _of(source: str, ids: Collection[Id]) -> set[int]:
    return {number for name, number in ids if name == source} if ids else set()
