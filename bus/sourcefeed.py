"""The events of one source on their way to one sink: which is next, which are parked. Pure.

Part of :class:`bus.feed.RunFeed`, which says what the words mean.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from bus.idranges import IdRanges
from bus.item import Item, deliveries, merge
from bus.mqtt import Delivery
from bus.parked import FIRST_KIND, LAST_KIND, READ_AHEAD_BYTES, Parked, has_to_wait
from bus.sinks import Marks

__all__ = ["TAIL_GRACE_SECONDS", "WANTED_IDS", "SourceFeed"]

TAIL_GRACE_SECONDS = 1.0
"""How long the last events of a source may take on the bus once the log has them."""

WANTED_IDS = 500
"""No further range is asked for once those before it hold so many ids."""


class SourceFeed:
    """What is known of one source.

    Args:
        source: Its name.
        marks: What the sink has applied, as :attr:`bus.feed.RunFeed.marks`.
    """

    __slots__ = (
        *("_at", "_let_go_since", "_let_go_top", "_tail_since"),
        *("in_hand", "lost", "marks", "parked", "pending", "source", "stored"),
    )

    def __init__(self, source: str, marks: Marks) -> None:
        self.source = source
        self.marks = marks
        self.pending: dict[int, Item] = {}
        self.parked = Parked()
        self.in_hand: dict[int, Item] = {}
        self.stored = IdRanges()
        self.lost = IdRanges()
        self._at = 1
        """All ids below are applied, parked, or were parked and are in hand."""
        self._let_go_top = 0
        """Highest id that was let go of: up to it the log is to be read."""
        self._let_go_since = 0.0
        """When the first of these had come."""
        self._tail_since: float | None = None
        """Since when the log has had more than has come."""

    def open(self, marks: Marks) -> list[Item]:
        """Take over other marks; returns what is here and turns out to be applied."""
        self.marks, self._at = marks, 1
        pending = [n for n in self.pending if marks.is_applied(self.source, n)]
        parked = [n for n in self.parked if marks.is_applied(self.source, n)]
        here = [self.pending.pop(n) for n in pending]
        return here + [item for n in parked if (item := self.parked.remove(n)) is not None]

    def offer(self, item: Item) -> Delivery | None:
        """Take in an event that is not applied; returns a delivery to acknowledge at once."""
        if item.number in self.parked:
            return self.parked.offer(item)
        here = self.pending.get(item.number) or self.in_hand.get(item.number)
        if here is not None:
            return merge(here, item)
        self.pending[item.number] = item
        return None

    def ready(self, blocked: Collection[str], left_out: Collection[int]) -> Iterator[Item]:
        """What may be taken, in order; parks what has to wait."""
        self.skip_lost()
        going = self.parked.ready(blocked, left_out) if self.parked else []
        waiting = {*blocked, *self.parked.staying(going)}
        has_parked = len(self.parked) > len(going)
        going.reverse()
        number = self.next
        while True:
            # What is parked may stand above an event that was not written yet.
            while going and going[-1].number < number:
                yield going.pop()
            item = self.pending.get(number)
            if item is None:
                return
            if item.kind in {FIRST_KIND, LAST_KIND}:
                if item.kind in blocked or (item.kind == LAST_KIND and has_parked):
                    return
                yield item
            elif number not in left_out and has_to_wait(item, waiting):
                self.parked.add(self.pending.pop(number))
                waiting.add(item.kind)
                has_parked = True
            else:
                yield item
            number = self._after(number + 1)

    def take(self, item: Item) -> None:
        """An event that is ready is in hand now."""
        if self.pending.pop(item.number, None) is None:
            self.parked.remove(item.number)
        self.in_hand[item.number] = item

    def put_back(self, item: Item) -> None:
        """An event that was in hand waits again."""
        if item.number < self._at:
            self.parked.add(item)
        else:
            self.pending[item.number] = item

    def wanted(self, now: float) -> list[tuple[int, int]]:
        """The ranges to read from the log now, parked events apart."""
        self.skip_lost()
        first = self.next
        while first in self.in_hand:
            first = self._after(first + 1)
        if first in self.pending:
            self._tail_since = None
            return []
        if self.parked.size_bytes >= READ_AHEAD_BYTES:
            return []
        last = self._missing_until(first, now)
        # Only what the log has without a hole: what lies above one waits for it.
        hole = self.stored.gaps(last, first)
        ids, found = 0, []
        for low, high in self._unapplied(first, hole[0][0] - 1 if hole else last):
            if ids < WANTED_IDS:
                found.append((low, high))
            ids += high - low + 1
        return found

    def gaps(self) -> list[tuple[int, int]]:
        """All ranges missing below events that are here."""
        if not self.pending:
            return []
        here = IdRanges(self.marks.applied.get(self.source, ()))
        for number in (*self.pending, *self.parked, *self.in_hand):
            here.add(number)
        return here.gaps(max(self.pending), self.next)

    def let_go(self, now: float, patience_seconds: float, parked_seconds: float) -> list[Delivery]:
        """Deliveries that have waited so long, of events that the log has."""
        done: list[Delivery] = []
        for number, item in list(self.pending.items()):
            if self._may_go(item, now, patience_seconds):
                del self.pending[number]
                if self._let_go_top < self.next:
                    self._let_go_since = item.since
                self._let_go_top = max(self._let_go_top, number)
                done += deliveries(item)
        for item in self.parked.items():
            if self._may_go(item, now, parked_seconds):
                self.parked.leave(item.number)
                done += deliveries(item)
        for item in self.in_hand.values():
            if self._may_go(item, now, patience_seconds):
                done += deliveries(item)
                item.delivery = None
        return done

    @property
    def next(self) -> int:
        """The first id that is neither applied nor parked; it may be in hand."""
        self._at = self._after(self._at)
        return self._at

    @property
    def is_complete(self) -> bool:
        """All that is known of is applied or parked."""
        return self.next > max(self._let_go_top, self.stored.top)

    @property
    def is_ending(self) -> bool:
        """Its end is here and waits for what is parked."""
        item = self.pending.get(self.next) if self.parked else None
        return item is not None and item.kind == LAST_KIND

    @property
    def lag(self) -> int:
        """Events that the log has and the sink has not."""
        return sum(last - first + 1 for first, last in self._unapplied(1, self.stored.top))

    def let_go_since(self) -> float | None:
        """When the first event that is left to the log had come; None when there is none."""
        parked = self.parked.left_since()
        if self._let_go_top < self.next:
            return parked
        return self._let_go_since if parked is None else min(parked, self._let_go_since)

    def skip_lost(self) -> None:
        """Count lost ids as applied where they stand next: nothing will ever come there.

        But for those that came after all, on the bus, before the loss was noticed.
        """
        for first, last in self.lost:
            while first <= (number := self.next) <= last:
                here = [n for n in (*self.pending, *self.parked, *self.in_hand) if n >= number]
                end = min(last, min(here, default=last + 1) - 1)
                if end < number:
                    break
                self.marks.applied.setdefault(self.source, IdRanges()).add(number, end)

    def _after(self, number: int) -> int:
        """The first id from a number on that is neither applied nor parked."""
        applied = self.marks.applied.get(self.source)
        while True:
            before = number
            if applied:
                number = applied.next_missing(number)
            while number in self.parked:
                number += 1
            if number == before:
                return number

    def _unapplied(self, first: int, last: int) -> list[tuple[int, int]]:
        return self.marks.applied.get(self.source, IdRanges()).gaps(last, first)

    def _missing_until(self, first: int, now: float) -> int:
        last = self._let_go_top
        if self.pending:
            last = max(last, min(self.pending) - 1)
        if self.stored.top < first:
            self._tail_since = None
        elif self._tail_since is None:
            self._tail_since = now
        elif now - self._tail_since >= TAIL_GRACE_SECONDS:
            last = max(last, self.stored.top)
        return last

    def _may_go(self, item: Item, now: float, patience_seconds: float) -> bool:
        is_due = item.delivery is not None and now - item.since >= patience_seconds
        return is_due and item.number in self.stored
