"""Which checkpoints need not be uploaded, when there are more than a limit lets through. Pure.

A checkpoint is superseded when a later one of the same source that is known takes its place:
one with the same file name, or with a name that differs in digits only and a later epoch (so that
``shard-2.pt`` does not take the place of ``shard-1.pt``). The best and the final one never are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from bus.errors import EventError
from bus.events import decode
from bus.feed import Item
from bus.kinds import Checkpoint

__all__ = ["Id", "split_blocked", "superseded"]

Id = tuple[str, int]
"""Source and id of an event."""

_DIGITS = re.compile(r"\d+")


def superseded(batch: Sequence[Item], ahead: Iterable[Item] = ()) -> frozenset[Id]:
    """The checkpoints of a batch that a later one takes the place of.

    Args:
        batch: In order per source.
        ahead: Events that will come after it, in order per source too; earlier ones do no harm.
    """
    last = {item.source: item.number for item in batch}
    after = [item for item in ahead if item.number > last.get(item.source, item.number)]
    here = {(item.source, item.number) for item in batch}
    return frozenset(_superseded([*batch, *after]) & here)


def _superseded(batch: Sequence[Item]) -> set[Id]:
    later: dict[tuple[str, str], list[Checkpoint]] = {}
    found: set[Id] = set()
    for item in reversed(batch):
        if item.kind != "checkpoint" or (checkpoint := _read(item)) is None:
            continue
        series = later.setdefault((item.source, _DIGITS.sub("#", checkpoint.blob.name)), [])
        is_kept = checkpoint.is_best or checkpoint.is_final
        if not is_kept and any(_replaces(one, checkpoint) for one in series):
            found.add((item.source, item.number))
        series.append(checkpoint)
    return found


def split_blocked(
    batch: Sequence[Item], left_out: Collection[Id], blocked: Collection[str]
) -> tuple[list[Item], list[Item]]:
    """Cut a batch before the events that have to wait: what goes now, and what does not.

    Args:
        batch: In order per source, which both parts keep.
        left_out: Events that are not written; they never have to wait.
        blocked: The kinds that have to wait.

    Returns:
        Both parts.
    """
    go: list[Item] = []
    stay: list[Item] = []
    stopped: set[str] = set()
    for item in batch:
        is_left_out = (item.source, item.number) in left_out
        if item.kind in blocked and not is_left_out:
            stopped.add(item.source)
        (stay if item.source in stopped else go).append(item)
    return go, stay


def _read(item: Item) -> Checkpoint | None:
    try:
        data = decode(item.raw).data
    except EventError:
        return None  # it becomes a dead letter
    return data if isinstance(data, Checkpoint) else None


def _replaces(later: Checkpoint, earlier: Checkpoint) -> bool:
    if later.blob.name == earlier.blob.name:
        return True
    return later.epoch is not None and earlier.epoch is not None and later.epoch > earlier.epoch
