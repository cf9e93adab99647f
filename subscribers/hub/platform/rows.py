"""Rows of metrics as this sink reads them: what of a ``log()`` call has which place. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from bus.errors import PermanentSinkError
from bus.kinds import Metrics, Number, Table
from subscribers.hub.platform.values import Value, finite, is_of_other_rank

__all__ = ["MAX_EPOCH", "Row", "read_rows", "take_model_info"]

MAX_EPOCH = 2**63
"""No step or epoch lies further from 0: more is no count, and does not fit into JSON."""

_EPOCH = "epoch"
_FITNESS = "fitness"
_BEST = "best_fitness"

_LR = "lr"
_FIRST_LR = "lr/pg0"
"""Platform shows one learning rate, that of the first group."""

_MODEL_INFO = {
    "model/parameters": "parameters",
    "model/GFLOPs": "gflops",
    "model/speed_PyTorch(ms)": "speedMs",
}
"""Names that Ultralytics logs, and where they stand on the wire."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        named: The epoch that it names; None when it names none.
        step: Its step.
        metrics: Its values by name, without those that have places of their own.
        fitness: What the training judges its weights by.
        best: What it says was the best fitness so far.
        model_info: What describes the model.
    """

    named: int | None
    step: int
    metrics: dict[str, Value]
    fitness: Value = None
    best: Value = None
    model_info: dict[str, Value] | None = None

    @property
    def number(self) -> int:
        """Its epoch, as far as the row itself says."""
        return self.step if self.named is None else self.named


def read_rows(data: Metrics) -> Iterator[Row]:
    """The rows that hold something for Platform, in the order in which they were logged.

    An event has a table for each set of keys, and may hold several epochs.

    Raises:
        PermanentSinkError: A step is beyond 64 bits.
    """
    rows = [(table, values) for table in data.tables for values in table.rows]
    rows.sort(key=lambda pair: cast("float", pair[1][0]))
    for table, values in rows:
        row = _read(table, values)
        if row.metrics or row.fitness is not None or row.best is not None or row.model_info:
            yield row


def take_model_info(metrics: dict[str, Value]) -> dict[str, Value]:
    """Take what describes the model out of metrics: it stands beside them on the wire."""
    return {to: metrics.pop(name) for name, to in _MODEL_INFO.items() if name in metrics}


def _read(table: Table, values: list[Number]) -> Row:
    metrics = {
        name: finite(value)
        for name, value in zip(table.keys, values[2:], strict=True)
        if not is_of_other_rank(name)
    }
    named, fitness, best = (metrics.pop(name, None) for name in (_EPOCH, _FITNESS, _BEST))
    model_info = take_model_info(metrics)
    if _FIRST_LR in metrics and _LR not in metrics:
        metrics[_LR] = metrics.pop(_FIRST_LR)
    is_epoch = named is not None and 0 <= named <= MAX_EPOCH and named == int(named)
    number = int(named) if named is not None and is_epoch else None
    return Row(number, _step(values), metrics, fitness, best, model_info)


def _step(values: list[Number]) -> int:
    step = int(values[1])
    if abs(step) > MAX_EPOCH:
        raise PermanentSinkError("a step is beyond 64 bits")
    return step
