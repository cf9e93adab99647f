"""What a batch of events means for a model in HUB. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from bus.errors import EventError, PermanentSinkError
from bus.events import Event
from bus.kinds import Checkpoint, Metrics, Params, Phase, RunFinished, RunStarted, Summary
from bus.source import Source
from subscribers.hub.v1.requests import ARGUMENTS

__all__ = ["KINDS", "Plan", "Values", "plan"]

KINDS = frozenset(
    {"checkpoint", "metrics", "params", "phase", "run_finished", "run_started", "summary"}
)
"""HUB v1 has no place for others, and none for the end of a run: a final model is its end."""

_OTHER_RANK = re.compile(r"rank\d+/")
_INFO = "model/"
_MAP_KEYS = ("metrics/mAP50-95(B)", "metrics/mAP_0.5:0.95")
_MAP = re.compile(r"metrics/mAP50-95\(\w\)")
_MAX_TEXT = 1024
_MAX_FACTS = 100
_MAX_EPOCH = 2**63 - 1
_EXACT = 2**53
"""Readers of JSON that know floats only have larger integers rounded anyway."""

Values = dict[str, float | int | None]


@dataclass(slots=True)
class Plan:
    """What is to be done for one batch.

    Attributes:
        start: The ``run_started`` event, if it is in the batch.
        arguments: Training arguments, by Ultralytics' names.
        epochs: Metrics by epoch; None for what is no finite number.
        info: Facts of the model (``model/parameters``, …) that came as single values.
        quality: The last mean average precision in the batch.
        checkpoints: In order.
        is_finished: Rank 0 has ended.
        wants_model: There is something that the model has to exist for.
    """

    start: Event | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    epochs: dict[int, Values] = field(default_factory=dict)
    info: Values = field(default_factory=dict)
    quality: float | None = None
    checkpoints: list[Event] = field(default_factory=list)
    is_finished: bool = False
    wants_model: bool = False


def plan(events: Sequence[Event]) -> Plan:
    """Read a batch. Only rank 0 speaks for the model; other ranks may start it.

    Raises:
        PermanentSinkError: An epoch is beyond 64 bits.
    """
    found = Plan()
    for event in events:
        is_first_rank = _rank(event) == 0
        match event.data:
            case RunStarted() as data:
                if found.start is None or is_first_rank:
                    found.start = event
                found.arguments |= _arguments(data.config)
            case Params() as data:
                found.arguments |= _arguments(data.params)
                found.wants_model |= is_first_rank
            case Phase(phase="train", state="started") as data:
                found.arguments |= _arguments(data.args)
            case Metrics() as data if is_first_rank:
                _add_rows(found, event, data)
            case Summary() as data if is_first_rank:
                _add_summary(found, data)
            case Checkpoint() as data if is_first_rank:
                _epoch(event, data.epoch or 0)
                found.checkpoints.append(event)
                found.wants_model = True
            case RunFinished() if is_first_rank:
                found.is_finished = found.wants_model = True
            case _:
                pass
    return found


def _rank(event: Event) -> int:
    try:
        return Source.parse(event.source).rank
    except EventError:
        return 0


def _arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that a model is made of, as far as they are plain and short."""
    found = {name: _without_query(values[name]) for name in ARGUMENTS if name in values}
    return {name: value for name, value in found.items() if _is_plain(value)}


def _without_query(value: object) -> object:
    """A model or data set of HUB may be named by a URL with a key in it, which is not kept."""
    if isinstance(value, str) and "://" in value:
        return value.partition("?")[0]
    return value


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= _EXACT)


def _add_rows(found: Plan, event: Event, data: Metrics) -> None:
    rows = [(table.keys, row) for table in data.tables for row in table.rows]
    # Rows of different keys are in different tables: of a value said twice the last one counts.
    rows.sort(key=lambda one: cast("float", one[1][0]))
    for keys, (_, step, *values) in rows:
        pairs = [
            (name, _value(value))
            for name, value in zip(keys, values, strict=True)
            if not _OTHER_RANK.match(name)
        ]
        if pairs:
            found.epochs.setdefault(_epoch(event, int(step)), {}).update(pairs)
            _note_quality(found, dict(pairs))
    found.wants_model |= bool(found.epochs)


def _epoch(event: Event, epoch: int) -> int:
    """An epoch that JSON can hold.

    Raises:
        PermanentSinkError: It is beyond 64 bits.
    """
    if abs(epoch) > _MAX_EPOCH:
        raise PermanentSinkError(f"event {event.id} of {event.source}: an epoch beyond 64 bits")
    return epoch


def _add_summary(found: Plan, data: Summary) -> None:
    values = {name: _value(value) for name, value in data.values.items()}
    facts = {name: value for name, value in values.items() if name.startswith(_INFO)}
    found.info = dict(list((found.info | facts).items())[:_MAX_FACTS])
    _note_quality(found, values)


def _note_quality(found: Plan, values: Values) -> None:
    names: Iterable[str] = [*_MAP_KEYS, *filter(_MAP.fullmatch, values)]
    for name in names:
        value = values.get(name)
        if value is not None:
            found.quality = float(value)
            return


def _value(value: Any) -> float | int | None:
    """A number of the wire; None for what is not finite."""
    if type(value) is int and abs(value) <= _EXACT:
        return value
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
