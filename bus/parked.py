"""Events that wait for a token of their kind, and are overtaken meanwhile. Pure.

A kind may have a limit of its own (``checkpoint=4/hour``). Without a token its events are *parked*:
what comes after them in their source passes. Three things keep an order that nobody breaks:

- within a kind the order stays: no event passes a parked one of its kind, but for the final
  checkpoint, which is not held to the limit (:func:`bus.ratelimit.is_unlimited`);
- ``run_started`` is never parked, and so never overtaken;
- ``run_finished`` is never parked either, and passes nothing that is.

**Memory.** Of a parked event only its id and kind are sure to be kept, some 200 bytes. Its bytes
are here

- while its delivery is held: a broker delivers no more than a few dozen per shard before it wants
  acknowledgements, and the worker gives those once the log has the events;
- once its kind has a token again, or checkpoints are chosen from at the end of the run: what one
  read from the log brings, 500 events or 4 MiB.

An event that came from the log is read from there again. Where a worker has to read the log to get
past what is parked, it stops at :data:`READ_AHEAD_BYTES` of it, so that a long backlog of a limited
kind is not read over and over: what lies behind then waits for the next token.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import takewhile

from bus.errors import EventError
from bus.events import decode
from bus.item import Item, merge
from bus.mqtt import Delivery
from bus.ratelimit import is_unlimited

__all__ = ["FIRST_KIND", "LAST_KIND", "READ_AHEAD_BYTES", "Parked", "has_to_wait"]

FIRST_KIND = "run_started"
"""Nothing overtakes it."""
LAST_KIND = "run_finished"
"""It overtakes nothing."""

READ_AHEAD_BYTES = 4 * 1024 * 1024
"""How much of a source may be parked before no more of it is read from the log."""


def has_to_wait(item: Item, blocked: Collection[str]) -> bool:
    """Whether an event is of a kind without a token, and held to that limit."""
    if item.kind not in blocked:
        return False
    if item.kind != "checkpoint":
        return True
    try:
        return not is_unlimited(decode(item.raw).data)
    except EventError:
        return True  # it becomes a dead letter in its turn


@dataclass(slots=True)
class _Place:
    kind: str
    since: float
    size_bytes: int


class Parked:
    """The parked events of one source; those whose bytes are not here are left to the log."""

    __slots__ = ("_here", "_order", "_places", "size_bytes")

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}
        self._order: dict[str, list[int]] = {}
        self._here: dict[int, Item] = {}
        self.size_bytes = 0
        """Of all of them, here or in the log."""

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[int]:
        """Their ids, in no order."""
        return iter(self._places)

    def items(self) -> list[Item]:
        """Those that are here."""
        return list(self._here.values())

    @property
    def kinds(self) -> set[str]:
        """The kinds that wait."""
        return set(self._order)

    def add(self, item: Item) -> None:
        """Park an event. What the log has brought is left to the log."""
        if item.delivery is not None:
            self._here[item.number] = item
        place = _Place(item.kind, item.since, len(item.raw))
        self._places[item.number] = place
        self.size_bytes += place.size_bytes
        insort(self._order.setdefault(item.kind, []), item.number)

    def offer(self, item: Item) -> Delivery | None:
        """Take in the bytes of an event that is parked.

        Returns:
            A delivery to acknowledge at once: the event is here already.
        """
        here = self._here.setdefault(item.number, item)
        return None if here is item else merge(here, item)

    def leave(self, number: int) -> None:
        """The log has it: its bytes need not be kept."""
        del self._here[number]

    def remove(self, number: int) -> Item | None:
        """It is no longer parked; returns it if it is here."""
        place = self._places.pop(number)
        self.size_bytes -= place.size_bytes
        order = self._order[place.kind]
        del order[bisect_left(order, number)]
        if not order:
            del self._order[place.kind]
        return self._here.pop(number, None)

    def ready(self, blocked: Collection[str], left_out: Collection[int]) -> list[Item]:
        """What may be taken, by id: of kinds with tokens, in order as far as it is here.

        Args:
            blocked: The kinds without a token.
            left_out: Events that are not to be written, which need none.
        """
        found = [self._here[number] for number in left_out if number in self._here]
        found = [item for item in found if item.kind in blocked]
        for kind, order in self._order.items():
            if kind not in blocked:
                here = takewhile(self._here.__contains__, order)
                found += [self._here[number] for number in here]
        return sorted(found, key=lambda item: item.number)

    def staying(self, going: Collection[Item]) -> set[str]:
        """The kinds of which some stay when these go."""
        left = {kind: len(order) for kind, order in self._order.items()}
        for item in going:
            left[item.kind] -= 1
        return {kind for kind, count in left.items() if count}

    def wanted(self, blocked: Collection[str]) -> list[tuple[int, int, str]]:
        """Per kind with tokens whose first is not here, the range (first, last, kind) to read."""
        return [
            (order[0], order[-1], kind)
            for kind, order in self._order.items()
            if kind not in blocked and order[0] not in self._here
        ]

    def first(self, kind: str) -> int | None:
        """The first of a kind."""
        order = self._order.get(kind)
        return order[0] if order else None

    def left_since(self) -> float | None:
        """When the first of those left to the log had come; None when all are here."""
        left = [order[0] for order in self._order.values() if order[0] not in self._here]
        return min((self._places[number].since for number in left), default=None)
