"""One event on its way to a sink, and the delivery it came with. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from bus.mqtt import Delivery

__all__ = ["Id", "Item", "deliveries", "merge"]

Id = tuple[str, int]
"""Source and id of an event."""


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


def merge(here: Item, item: Item) -> Delivery | None:
    """The same event has come twice: which delivery of it to acknowledge now."""
    here.is_retry = here.is_retry or item.is_retry
    if item.delivery is None or here.delivery == item.delivery:
        return None
    if here.delivery is None or here.delivery.link.is_lost:
        # Re-delivered on a new link: that one is to be acknowledged when the event is written.
        here.delivery, here.since = item.delivery, item.since
        return None
    return item.delivery


def deliveries(item: Item | None) -> list[Delivery]:
    """The delivery of an item, if it has one."""
    return [] if item is None or item.delivery is None else [item.delivery]
