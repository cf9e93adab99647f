"""What the events of a batch become on Platform's wire: pure, before anything is sent.

| event        | on the wire                                                            |
|--------------|------------------------------------------------------------------------|
| run_started  | ``training_started``, once its params or anything else have come       |
| params       | its ``trainArgs``; those that come later have no place                 |
| metrics      | ``epoch_end`` of each epoch (:mod:`subscribers.hub.platform.epochs`)   |
| system       | ``system`` of the epoch under way, and of the next                     |
| summary      | the results of ``training_complete``                                   |
| checkpoint   | an upload and ``checkpoint_saved``                                     |
| plot         | ``plots`` of ``training_complete``, if it is data and no picture       |
| console      | ``console_output``                                                     |
| phase        | the end of training ends its last epoch                                |
| run_finished | ``training_complete`` or ``training_failed``, once all ranks have ended |

All but the life of the run comes from rank 0. The outcome depends on the order of events and not
on how they were cut into batches, so that a batch that is written again asks for the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from bus.errors import EventError
from bus.events import Event
from bus.kinds import (
    Checkpoint,
    Console,
    KindData,
    Metrics,
    Params,
    Phase,
    Plot,
    RunFinished,
    RunStarted,
    Summary,
    System,
)
from bus.lifecycle import RunLife
from bus.source import Source
from subscribers.hub.platform import bodies
from subscribers.hub.platform.calls import Call, Id, checkpoint_key, epoch_key, event_key
from subscribers.hub.platform.epochs import Epoch
from subscribers.hub.platform.held import Curve, Held, Start
from subscribers.hub.platform.rows import MAX_EPOCH, read_rows, take_model_info
from subscribers.hub.platform.values import finite, system_of

__all__ = ["KINDS", "Fold", "is_model"]

KINDS = frozenset(
    {
        "checkpoint",
        "console",
        "metrics",
        "params",
        "phase",
        "plot",
        "run_finished",
        "run_started",
        "summary",
        "system",
    }
)
"""What has a place on Platform: not tags, images, artifacts and models of other kinds."""

_GENERAL = "General"
_CURVE_SUFFIX = ".json"
_MAX_CURVES = 50
_MAX_CURVE_BYTES = 1024 * 1024

_D = TypeVar("_D", bound=KindData)


class Fold:
    """Takes the events of one batch, one after the other.

    Args:
        held: What the run's events have said so far; changed.

    Attributes:
        calls: What they ask for, in order.
        left_out: Checkpoints whose place a later one of the batch takes: Platform holds one file
            as the model of a run, the final one, else the best, else the last.
    """

    def __init__(self, held: Held) -> None:
        self.calls: list[Call] = []
        self.left_out: list[Id] = []
        self._held = held
        self._life = _life(held.life)
        self._touched: dict[int, set[Id]] = {}
        self._start_ids: set[Id] = set()
        self._epoch_calls: dict[tuple[int, int], int] = {}
        self._event: Event | None = None

    def finish(self) -> list[Call]:
        """The batch has no more events; all that it asks for."""
        if self._held.start is not None and self._held.start.is_due:
            self._begin()
        return self.calls

    def close_epoch(self) -> list[Call]:
        """Nothing has come for a while: the epoch under way is sent as it is."""
        self._send(self._held.epochs.close())
        return self.calls

    def take(self, event: Event) -> None:
        """Take in the next event."""
        self._event = event
        source = Source.parse(event.source)
        data = event.data
        if isinstance(data, RunStarted | RunFinished) and (source.is_loss or data.loss):
            self._life.see_loss(data.rank, data.attempt, data.loss, event.time)
            if isinstance(data, RunFinished):
                self._end(data)
        elif isinstance(data, RunStarted):
            self._life.start(data.rank, data.attempt, data.world.ranks)
            if source.rank == 0 and data.attempt > self._held.attempt:
                self._restart(data)
        elif isinstance(data, RunFinished):
            self._life.finish(data.rank, data.attempt, data.status, event.time)
            if source.rank == 0 and source.attempt >= self._held.attempt:
                self._send(self._held.epochs.end())
            self._end(data)
        elif source.rank == 0:
            self._take_from_rank_0(event, source.attempt)
        self._held.life = str(self._life)

    def _take_from_rank_0(self, event: Event, attempt: int) -> None:
        held = self._held
        if attempt < held.attempt:
            if isinstance(event.data, Metrics):
                self._late(event.data)
            return
        self._begin_without(attempt)
        if held.start is not None:
            held.start.is_due = True
            self._start_ids.add(self._id)
        _HANDLERS[type(event.data)](self, event)

    def _begin_without(self, attempt: int) -> None:
        """The beginning became a dead letter, or is in another source: Platform has to know."""
        if self._held.attempt == 0:
            self._held.attempt, self._held.start = attempt, Start()

    def _restart(self, data: RunStarted) -> None:
        held = self._held
        self._send(held.epochs.restart())
        options = data.options.get("hub", {})
        held.attempt, held.ended, held.error = data.attempt, "", ""
        held.project = str(options.get("project") or held.project)
        held.name = str(options.get("name") or held.name)
        held.start = Start(environment=bodies.environment_of(data))
        held.class_names = bodies.class_names_of(data.config) or held.class_names
        held.model_info = bodies.model_info_of(data.config) or held.model_info
        held.summary = {}
        self._start_ids.add(self._id)

    def _params(self, event: Event) -> None:
        data, start = _data(event, Params), self._held.start
        if start is None:
            return
        prefix = "" if data.section == _GENERAL else f"{data.section}/"
        start.args.update({f"{prefix}{name}": str(value) for name, value in data.params.items()})
        epochs, device = data.params.get("epochs"), data.params.get("device")
        if type(epochs) is int and 0 <= epochs <= MAX_EPOCH:
            start.epochs = epochs
        if device is not None:
            start.device = str(device)

    def _metrics(self, event: Event) -> None:
        for row in read_rows(_data(event, Metrics)):
            self._held.model_info |= row.model_info or {}
            self._touch(row.number)
            self._send(self._held.epochs.row(row))

    def _late(self, data: Metrics) -> None:
        for row in read_rows(data):
            self._touch(row.number)
            self._send(self._held.epochs.late_row(row))

    def _system(self, event: Event) -> None:
        self._held.epochs.system = system_of(_data(event, System).values)

    def _summary(self, event: Event) -> None:
        values = {name: finite(value) for name, value in _data(event, Summary).values.items()}
        self._held.model_info |= take_model_info(values)
        self._held.summary |= values

    def _checkpoint(self, event: Event) -> None:
        data = _data(event, Checkpoint)
        fitness = None if data.fitness is None else finite(data.fitness)
        if data.epoch is not None and abs(data.epoch) <= MAX_EPOCH:
            self._touch(data.epoch)
            self._send(self._held.epochs.checkpoint(data.epoch, fitness))
        if data.is_final:
            self._send(self._held.epochs.close())
        self._leave_out(data)
        self._call("checkpoint_saved", checkpoint_key(event), {}, checkpoint=event)

    def _leave_out(self, later: Checkpoint) -> None:
        """A checkpoint follows: earlier ones of the batch need not be uploaded any more."""
        for call in [one for one in self.calls if one.checkpoint is not None]:
            earlier = cast("Event", call.checkpoint)
            if is_model(later) or not is_model(_data(earlier, Checkpoint)):
                self.left_out.append((earlier.source, earlier.id))
                self._remove(call)

    def _plot(self, event: Event) -> None:
        data = _data(event, Plot)
        if not data.blob.name.endswith(_CURVE_SUFFIX) or data.blob.is_folder:
            return
        if data.blob.size > _MAX_CURVE_BYTES or event.dataref is None:
            return
        curves = {
            **self._held.curves,
            f"{data.title}/{data.series}": Curve(event.dataref, data.blob),
        }
        self._held.curves = dict(list(curves.items())[-_MAX_CURVES:])

    def _console(self, event: Event) -> None:
        lines = _data(event, Console).lines
        if lines:
            self._held.chunks += 1
            data = bodies.console_data(self._held.chunks, lines)
            self._call("console_output", event_key(event), data)

    def _phase(self, event: Event) -> None:
        data = _data(event, Phase)
        if data.phase == "train" and data.state == "ended":
            self._send(self._held.epochs.end())

    def _end(self, data: RunFinished) -> None:
        """Tell how the run ended, once it has; again when it turns out to be otherwise."""
        held, outcome = self._held, self._life.outcome()
        held.error = data.error or held.error
        if outcome is None:
            return
        self._begin_without(data.attempt)
        ended = f"{held.attempt}:{outcome.status}"
        if ended == held.ended:
            return
        held.ended = ended
        self._send(held.epochs.end())
        if outcome.status == "completed":
            self._call("training_complete", f"end:{ended}", bodies.complete_data(held))
            self.calls[-1].curves = list(held.curves.values())
        else:
            failed = bodies.failed_data(outcome.status, held.error)
            self._call("training_failed", f"end:{ended}", failed)

    def _begin(self) -> None:
        start, self._held.start = self._held.start, None
        if start is not None:
            data = bodies.started_data(start, self._held.epochs.system)
            key = f"start:{self._held.attempt}"
            self.calls.append(Call("training_started", key, data, self._start_ids))
            self._start_ids = set()

    def _send(self, epochs: Iterable[Epoch]) -> None:
        held = self._held
        for epoch in epochs:
            if held.model_info and held.model_epoch is None:
                held.model_epoch = epoch.number
            data = bodies.epoch_data(held, epoch)
            earlier = self._epoch_calls.get((held.attempt, epoch.number))
            if earlier is not None:
                # What comes late for an epoch is not always the whole of it.
                data = bodies.joined_epoch(self.calls[earlier].data, data)
            origins = self._touched.pop(epoch.number, set())
            self._call("epoch_end", epoch_key(held.attempt, epoch.number, data), data, origins)

    def _call(
        self,
        name: str,
        key: str,
        data: dict[str, Any],
        origins: set[Id] | None = None,
        checkpoint: Event | None = None,
    ) -> None:
        self._begin()
        call = Call(name, key, data, {self._id} if origins is None else origins, checkpoint)
        place = (self._held.attempt, data["epoch"]) if name == "epoch_end" else None
        index = self._epoch_calls.get(place) if place else None
        if index is not None:
            # The same epoch once more, with more in it: what was to be sent before is not.
            call.origins |= self.calls[index].origins
            self.calls[index] = call
            return
        if place:
            self._epoch_calls[place] = len(self.calls)
        self.calls.append(call)

    def _remove(self, call: Call) -> None:
        index = self.calls.index(call)
        del self.calls[index]
        places = self._epoch_calls.items()
        self._epoch_calls = {place: at - (at > index) for place, at in places}

    def _touch(self, number: int) -> None:
        self._touched.setdefault(number, set()).add(self._id)

    @property
    def _id(self) -> Id:
        assert self._event is not None
        return self._event.source, self._event.id


_HANDLERS: dict[type[KindData], Callable[[Fold, Event], None]] = {
    Checkpoint: Fold._checkpoint,
    Console: Fold._console,
    Metrics: Fold._metrics,
    Params: Fold._params,
    Phase: Fold._phase,
    Plot: Fold._plot,
    Summary: Fold._summary,
    System: Fold._system,
}


def is_model(data: Checkpoint) -> bool:
    """Whether a checkpoint is what a run has to show: the best so far, or its final one."""
    return data.is_best or data.is_final


def _life(text: str) -> RunLife:
    try:
        return RunLife.parse(text)
    except EventError:
        return RunLife()


def _data(event: Event, kind: type[_D]) -> _D:
    assert isinstance(event.data, kind)
    return cast("_D", event.data)
