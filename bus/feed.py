"""What a sink worker knows about one run: which events it holds, owes, waits for or may let go.

Pure: events, stored-acks and times in; batches, wanted ranges and deliveries to acknowledge out.

Per source the next id to be written is the one after the applied marks. An id can come live from
the bus or from the event log; both end in the same place, so that a hole, a lost tail, a sink that
was down and a group that starts late are one mechanism:

- an id that is applied is dropped, whichever way it came;
- an id is handed out only when all ids below it are: order within a source is kept;
- an id that is missing and stored in the log is *wanted* from there. Missing means: something
  above it is here, or it was let go of, or the log has it and it has not come for a second;
- a delivery may be acknowledged before the sink has it once the log has it (*let go*): the run
  goes on from the log then, and its shard is free for others;
- a dead letter that is to be tried again (*retry*) has no place in that order: its id is applied,
  and dead. It waits apart, and nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bus.idranges import IdRanges
from bus.mqtt import Delivery
from bus.sinks import BatchLimits, Marks

__all__ = ["TAIL_GRACE_SECONDS", "Item", "RunFeed"]

TAIL_GRACE_SECONDS = 1.0
"""How long the last events of a source may take on the bus once the log has them."""


@dataclass(slots=True, eq=False)
class Item:
    """One event that is here and not yet written.

    Attributes:
        delivery: None if it came from the log.
        is_retry: Somebody wants it tried again, should it be dead.
    """

    source: str
    number: int
    kind: str
    raw: bytes
    delivery: Delivery | None
    since: float
    is_retry: bool = False


@dataclass(slots=True)
class _SourceFeed:
    pending: dict[int, Item] = field(default_factory=dict)
    stored: IdRanges = field(default_factory=IdRanges)
    lost: IdRanges = field(default_factory=IdRanges)
    let_go_top: int = 0
    """Highest id that was let go of: up to it the log is to be read."""
    let_go_since: float = 0.0
    """When the first of these had come."""
    tail_since: float | None = None
    """Since when the log has had more than has come."""


class RunFeed:
    """The events of one run on their way to one sink.

    Args:
        marks: What the sink has applied; this object keeps it up to date as batches settle.
    """

    def __init__(self, marks: Marks | None = None) -> None:
        self.marks = marks or Marks()
        self._sources: dict[str, _SourceFeed] = {}
        self._in_hand: dict[tuple[str, int], Item] = {}
        self._retries: dict[tuple[str, int], Item] = {}

    def open(self, marks: Marks) -> list[Delivery]:
        """Take over the marks that the sink holds; returns deliveries it turns out to have."""
        self.marks = marks
        done: list[Delivery] = []
        for source, feed in self._sources.items():
            for number in [n for n in feed.pending if marks.is_applied(source, n)]:
                item = feed.pending.pop(number)
                done.extend(_listed(self.offer(item)))
        for key in [key for key in self._retries if not marks.is_applied(*key)]:
            # The sink has forgotten that it was given up: it is an event as any other.
            done.extend(_listed(self.offer(self._retries.pop(key))))
        return done

    def offer(self, item: Item) -> Delivery | None:
        """Take an event in.

        Returns:
            A delivery to acknowledge at once: of an event that is applied, or here already.
        """
        key = (item.source, item.number)
        if self.marks.is_applied(*key):
            if not self._is_wanted_again(item):
                return item.delivery
            known = self._retries.setdefault(key, item)
            return None if known is item else _merge(known, item)
        feed = self._source(item.source)
        here = feed.pending.get(item.number) or self._in_hand.get(key)
        if here is None:
            feed.pending[item.number] = item
            return None
        here.is_retry = here.is_retry or item.is_retry
        return _merge(here, item)

    def has(self, source: str, number: int) -> bool:
        """The event is here or in hand."""
        key, feed = (source, number), self._sources.get(source)
        is_pending = feed is not None and number in feed.pending
        return is_pending or key in self._in_hand or key in self._retries

    def next_retry(self) -> Item | None:
        """A dead letter to try again, if there is one; it stays here until :meth:`settle_retry`.

        Where the marks do not call it dead, an earlier try has got through.
        """
        return next(iter(self._retries.values()), None)

    def settle_retry(self, item: Item) -> list[Delivery]:
        """It is written, or given up once more, and the marks say so: what to acknowledge."""
        self._retries.pop((item.source, item.number), None)
        return _listed(item.delivery)

    def stored(self, source: str, stored: IdRanges, lost: IdRanges | None = None) -> None:
        """The event log holds these ids of a source; ``lost`` are those that will never come."""
        feed = self._source(source)
        feed.stored = stored
        if lost:
            feed.lost = lost

    def take(self, limits: BatchLimits) -> list[Item]:
        """The next batch, in order per source. It is in hand until :meth:`settle`."""
        batch: list[Item] = []
        size = 0
        for source, feed in self._sources.items():
            self._skip_lost(source, feed)
            number = self._next(source)
            while (item := feed.pending.get(number)) is not None:
                size += len(item.raw)
                if batch and (size > limits.size_bytes or len(batch) >= limits.events):
                    return batch
                del feed.pending[number]
                self._in_hand[source, number] = item
                batch.append(item)
                number += 1
        return batch

    def settle(self, items: Iterable[Item]) -> list[Delivery]:
        """These events are written or given up, and the marks say so: what to acknowledge."""
        done: list[Delivery] = []
        for item in items:
            self._in_hand.pop((item.source, item.number), None)
            done.extend(_listed(item.delivery))
        return done

    def put_back(self, items: Iterable[Item]) -> list[Delivery]:
        """The batch broke off: what of it is not applied is waiting again.

        Returns:
            What to acknowledge: the sink has a part of the batch.
        """
        done: list[Delivery] = []
        for item in items:
            self._in_hand.pop((item.source, item.number), None)
            if self.marks.is_applied(item.source, item.number):
                done.extend(_listed(item.delivery))
            else:
                self._source(item.source).pending[item.number] = item
        return done

    def wanted(self, now: float) -> list[tuple[str, int, int]]:
        """The ranges (source, first, last) to read from the event log now."""
        found: list[tuple[str, int, int]] = []
        for source, feed in self._sources.items():
            self._skip_lost(source, feed)
            first = self._next(source)
            while (source, first) in self._in_hand:
                first += 1
            if first in feed.pending:
                feed.tail_since = None
                continue
            last = self._missing_until(feed, first, now)
            # Only what the log has without a hole: what lies above one waits for it.
            hole = feed.stored.gaps(last, first)
            last = hole[0][0] - 1 if hole else last
            if first <= last:
                found.append((source, first, last))
        return found

    def gaps(self) -> list[tuple[str, int, int]]:
        """Ranges missing below events that are here: what a worker without a log reports."""
        found = []
        for source, feed in self._sources.items():
            first = self._next(source)
            if feed.pending and first not in feed.pending and (source, first) not in self._in_hand:
                found.append((source, first, min(feed.pending) - 1))
        return found

    def let_go(self, now: float, patience_seconds: float) -> list[Delivery]:
        """Deliveries that have waited for so long and are safe in the log: to acknowledge now."""
        done: list[Delivery] = []
        for source, feed in self._sources.items():
            for number, item in list(feed.pending.items()):
                if self._may_go(feed, item, now, patience_seconds):
                    del feed.pending[number]
                    if feed.let_go_top < self._next(source):
                        feed.let_go_since = item.since
                    feed.let_go_top = max(feed.let_go_top, number)
                    done.extend(_listed(item.delivery))
        for (source, _), item in self._in_hand.items():
            if self._may_go(self._source(source), item, now, patience_seconds):
                done.extend(_listed(item.delivery))
                item.delivery = None
        return done

    def is_quiet(self) -> bool:
        """Nothing is here, in hand, or known to be missing."""
        return not (self._in_hand or self._retries) and all(
            not feed.pending and self._next(source) > max(feed.let_go_top, feed.stored.top)
            for source, feed in self._sources.items()
        )

    def has_work(self) -> bool:
        """The next event of some source is here."""
        return any(self._next(source) in feed.pending for source, feed in self._sources.items())

    def upcoming(self, events: int) -> set[str]:
        """The kinds among the next events, so many of them at the most."""
        found: set[str] = set()
        for source, feed in self._sources.items():
            number = self._next(source)
            while events > 0 and (item := feed.pending.get(number)) is not None:
                found.add(item.kind)
                number += 1
                events -= 1
        return found

    def held(self) -> int:
        """Deliveries that wait for an acknowledgement."""
        return sum(1 for item in self._items() if item.delivery is not None)

    def lag(self) -> int:
        """Events that the log has and the sink has not."""
        return sum(
            max(feed.stored.top - self._next(source) + 1, 0)
            for source, feed in self._sources.items()
        )

    def heads(self) -> list[Item]:
        """The first event of each source that waits here."""
        found = {source: feed.pending[min(feed.pending)] for source, feed in self._waiting()}
        for (source, _), item in reversed(self._in_hand.items()):
            found[source] = item
        return list(found.values())

    def let_go_since(self) -> float | None:
        """When the first event that is left to the log had come; None when there is none."""
        since = [
            feed.let_go_since
            for source, feed in self._sources.items()
            if feed.let_go_top >= self._next(source)
        ]
        return min(since, default=None)

    def _waiting(self) -> list[tuple[str, _SourceFeed]]:
        return [(source, feed) for source, feed in self._sources.items() if feed.pending]

    def _items(self) -> Iterator[Item]:
        for feed in self._sources.values():
            yield from feed.pending.values()
        yield from self._in_hand.values()
        yield from self._retries.values()

    def _is_wanted_again(self, item: Item) -> bool:
        """A retry of a dead letter; from the log also one that was written: it is to be noted."""
        is_dead = self.marks.is_dead(item.source, item.number)
        return item.is_retry and (is_dead or item.delivery is None)

    def _source(self, source: str) -> _SourceFeed:
        return self._sources.setdefault(source, _SourceFeed())

    def _next(self, source: str) -> int:
        ranges = self.marks.applied.get(source)
        return ranges.contiguous + 1 if ranges else 1

    def _skip_lost(self, source: str, feed: _SourceFeed) -> None:
        """Count lost ids as applied where they stand next: nothing will ever come there.

        But for those that came after all, on the bus, before the loss was noticed.
        """
        for first, last in feed.lost:
            number = self._next(source)
            if first <= number <= last:
                here = [n for n in feed.pending if n >= number]
                here += [n for name, n in self._in_hand if name == source and n >= number]
                last = min(last, min(here, default=last + 1) - 1)
                if number <= last:
                    self.marks.applied.setdefault(source, IdRanges()).add(number, last)

    def _missing_until(self, feed: _SourceFeed, first: int, now: float) -> int:
        last = feed.let_go_top
        if feed.pending:
            last = max(last, min(feed.pending) - 1)
        if feed.stored.top < first:
            feed.tail_since = None
        elif feed.tail_since is None:
            feed.tail_since = now
        elif now - feed.tail_since >= TAIL_GRACE_SECONDS:
            last = max(last, feed.stored.top)
        return last

    def _may_go(self, feed: _SourceFeed, item: Item, now: float, patience_seconds: float) -> bool:
        return (
            item.delivery is not None
            and now - item.since >= patience_seconds
            and item.number in feed.stored
        )


def _merge(here: Item, item: Item) -> Delivery | None:
    """The same event has come twice: which delivery of it to acknowledge now."""
    if item.delivery is None or here.delivery == item.delivery:
        return None
    if here.delivery is None or here.delivery.link.is_lost:
        # Re-delivered on a new link: that one is to be acknowledged when the event is written.
        here.delivery, here.since = item.delivery, item.since
        return None
    return item.delivery


def _listed(delivery: Delivery | None) -> list[Delivery]:
    return [] if delivery is None else [delivery]
