"""Which checkpoints need not be uploaded, when there are more than a limit lets through. Pure.

A checkpoint is superseded when a later one of the same series that is known takes its place. A
series is one source and one file name, or names that differ in digits only and a later epoch (so
that ``shard-2.pt`` does not take the place of ``shard-1.pt``). A final one takes the place of
those of all series: ``best.pt`` at the end that of ``last.pt`` on the way. Any later one takes the
place of one that is not the best; only a later best takes that of a best; and nothing that of a
final one. So the best so far is never the one that is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bus.errors import EventError
from bus.events import decode
from bus.item import Id, Item
from bus.kinds import Checkpoint

__all__ = ["Id", "latest", "superseded"]

_DIGITS = re.compile(r"\d+")


def superseded(waiting: Iterable[Item], others: Iterable[Item] = ()) -> frozenset[Id]:
    """The checkpoints of those waiting that a later one takes the place of.

    Args:
        waiting: Events that are to be written, in any order, of any kind.
        others: Further events of their sources that are or will be written; earlier ones do no
            harm.
    """
    mine = {(item.source, item.number): item for item in waiting if item.kind == "checkpoint"}
    if not mine:
        return frozenset()
    known = {(item.source, item.number): item for item in others} | mine
    later: dict[tuple[str, str], list[Checkpoint]] = {}
    finals: dict[str, list[Checkpoint]] = {}
    found: set[Id] = set()
    for key in sorted(known, key=lambda key: key[1], reverse=True):
        checkpoint = _read(known[key])
        if checkpoint is None:
            continue
        series = later.setdefault((key[0], _DIGITS.sub("#", checkpoint.blob.name)), [])
        ends = finals.setdefault(key[0], [])
        if key in mine and any(_replaces(one, checkpoint) for one in [*series, *ends]):
            found.add(key)
        (ends if checkpoint.is_final else series).append(checkpoint)
    return frozenset(found)


def latest(items: Sequence[Item]) -> list[Item]:
    """Those that none of the others takes the place of: enough to say what they all supersede."""
    gone = superseded(items)
    return [item for item in items if (item.source, item.number) not in gone]


def _read(item: Item) -> Checkpoint | None:
    if item.kind != "checkpoint":
        return None
    try:
        data = decode(item.raw).data
    except EventError:
        return None  # it becomes a dead letter
    return data if isinstance(data, Checkpoint) else None


def _replaces(later: Checkpoint, earlier: Checkpoint) -> bool:
    if earlier.is_final or (earlier.is_best and not later.is_best):
        return False
    if later.is_final or later.blob.name == earlier.blob.name:
        return True
    return later.epoch is not None and earlier.epoch is not None and later.epoch > earlier.epoch
