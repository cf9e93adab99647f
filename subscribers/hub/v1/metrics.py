"""Which epochs are sent, and what of them is kept. Pure.

HUB replaces an epoch by what is sent for it. The values of one epoch may come in several batches:
losses first, and what validation brings later. So the last epochs are kept, and sent whole again
when more is known of them. Facts of the model belong to epoch 0; those that come when it is already
there are sent with the next metrics, or at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from subscribers.hub.v1.plan import Plan, Values

__all__ = ["DueMetrics", "due_metrics"]

_KEPT_EPOCHS = 8
_KEPT_VALUES = 2000
"""Of all kept epochs together: they are written with every batch."""


@dataclass(frozen=True, slots=True)
class DueMetrics:
    """What one batch leads to.

    Attributes:
        epochs: What is to be sent now, in one request; nothing when empty.
        kept: Fields to be kept for later batches.
    """

    epochs: dict[int, Values]
    kept: dict[str, Any]


def due_metrics(fields: Mapping[str, Any], planned: Plan) -> DueMetrics:
    """Join a batch with what earlier ones left.

    Args:
        fields: What is kept of the run.
        planned: The batch.
    """
    known: dict[int, Values] = {int(e): values for e, values in fields.get("epochs", {}).items()}
    info = {**fields.get("info", {}), **planned.info}
    is_new = fields.get("has_new_info", False) or info != fields.get("info", {})
    due = {epoch: {**known.get(epoch, {}), **new} for epoch, new in planned.epochs.items()}
    if is_new and 0 in known and (due or planned.is_finished):
        due.setdefault(0, known[0])
    if 0 in due:
        due[0] = {**due[0], **info}
        is_new = False
    last = max([fields.get("epoch", -1), *due])
    quality = fields.get("map") if planned.quality is None else planned.quality
    return DueMetrics(
        due,
        {
            "epochs": {str(e): values for e, values in _to_keep(known, due).items()} or None,
            "info": info or None,
            "has_new_info": is_new or None,
            "epoch": last if last >= 0 else None,
            "map": quality,
        },
    )


def _to_keep(known: Mapping[int, Values], new: Mapping[int, Values]) -> dict[int, Values]:
    """The epochs that later values may belong to: the last, and 0, where the model's facts are."""
    merged = {**known, **new}
    found: dict[int, Values] = {}
    size = 0
    last = sorted(merged, reverse=True)[:_KEPT_EPOCHS]
    for epoch in dict.fromkeys([*last[:1], *({0} & merged.keys()), *last]):
        size += len(merged[epoch])
        if found and size > _KEPT_VALUES:
            break
        found[epoch] = merged[epoch]
    return dict(sorted(found.items()))
