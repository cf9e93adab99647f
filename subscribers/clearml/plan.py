"""What a batch of events becomes in ClearML: pure, before anything is sent.

Where things go:

| event        | in ClearML                                                                  |
|--------------|-----------------------------------------------------------------------------|
| run_started  | tags, comment, repository and program, parent, user properties;             |
|              | its config as configuration object "config"                                 |
| params       | hyperparameters of their section                                            |
| metrics, summary, system | scalars (:mod:`subscribers.clearml.points`)                     |
| image        | debug sample of title and series at the step                                |
| plot         | plot that shows the picture; nothing for one that is data (JSON)            |
| artifact     | artifact under its path                                                     |
| checkpoint   | output model "best" or "final"; others are noted as a user property         |
| model        | output model of its name, its metrics as metadata                           |
| console      | console lines                                                               |
| run_finished | status and its reason, once all ranks have finished                         |
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from bus.events import Event
from bus.kinds import (
    Artifact,
    Checkpoint,
    Console,
    Image,
    KindData,
    Model,
    Params,
    Plot,
    RunFinished,
    RunStarted,
    Tags,
)
from bus.lifecycle import RunLife
from subscribers.clearml.names import own_property
from subscribers.clearml.options import RunOptions
from subscribers.clearml.params import Param, params_of
from subscribers.clearml.points import POINT_KINDS, as_float

__all__ = ["KINDS", "OutputModel", "Picture", "Plan", "plan", "reason_of", "tag_text"]

_MAX_TEXT = 10_000
"""Characters of an error or note that are kept: a page shows it whole."""

_DATA_SUFFIX = ".json"
"""Of a plot that is data, for trackers that draw it themselves; its picture comes beside it."""

_ERROR = "error"
_ERROR_OF = re.compile(re.escape(own_property(_ERROR)) + r"(?:\.rank(\d+))?")

_D = TypeVar("_D", bound=KindData)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a debug sample, or as a plot."""

    event: Event
    metric: str
    variant: str
    iteration: int
    is_plot: bool = False


@dataclass(frozen=True, slots=True)
class OutputModel:
    """A file that becomes an output model of the task.

    Attributes:
        role: The name under which the task lists it; one that comes later takes its place.
        name: The name of the model itself; None for that of the task.
        metadata: What the model page shows beside it.
        is_kept: Whether it becomes one whatever the options say.
    """

    event: Event
    role: str
    name: str | None = None
    iteration: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    is_kept: bool = True


@dataclass(slots=True)
class Plan:
    """All that a batch asks of ClearML.

    Attributes:
        points: The events that hold scalars, in order.
        params: Hyperparameters by section and name; the last word counts.
        properties: The sink's own user properties by their full name; an empty one says no more.
        tags: Per name on the bus the tag to show.
        pictures: Debug samples and plots, in order.
        artifacts: Events of files and folders.
        configuration: Configuration objects by name.
        script: Fields of the section "script".
        parent: Run id, on the bus, of the run this one is nested in.
        options: What the run says about ClearML; None when this batch does not say.
        framework: Of the run; None when this batch does not say.
        reports: What the batch says about ranks, to be applied to a RunLife.
        first_seconds: The earliest time of an event; None for an empty batch.
    """

    points: list[Event] = field(default_factory=list)
    console: list[Event] = field(default_factory=list)
    params: dict[tuple[str, str], Param] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    models: list[OutputModel] = field(default_factory=list)
    artifacts: list[Event] = field(default_factory=list)
    configuration: dict[str, str] = field(default_factory=dict)
    script: dict[str, str] = field(default_factory=dict)
    comment: str = ""
    parent: str | None = None
    options: RunOptions | None = None
    framework: str | None = None
    reports: list[Callable[[RunLife], None]] = field(default_factory=list)
    first_seconds: float | None = None

    @property
    def is_editing(self) -> bool:
        """Whether it holds what ClearML takes only while a task is under way."""
        return bool(self.params or self.models or self.artifacts or self.configuration)

    def set_property(self, name: str, value: str) -> None:
        """Set a user property of the sink; an empty value is none."""
        if value:
            self.properties[own_property(name)] = value[:_MAX_TEXT]


def plan(events: Sequence[Event]) -> Plan:
    """Sort the events of a batch into what ClearML is asked to do.

    Raises:
        PermanentSinkError: An option of the run makes no sense.
    """
    result = Plan()
    for event in events:
        if event.kind in POINT_KINDS:
            result.points.append(event)
        handler = _HANDLERS.get(type(event.data))
        if handler is not None:
            handler(result, event)
    result.first_seconds = min((event.time for event in events), default=None)
    return result


def reason_of(properties: Mapping[str, str]) -> str:
    """Why ranks failed, in words and in their order, as the sink's user properties say."""
    errors = ((_ERROR_OF.fullmatch(name), text) for name, text in properties.items() if text)
    found = sorted((int(match[1] or 0), text) for match, text in errors if match)
    return "; ".join(dict.fromkeys(text for _, text in found))


def tag_text(name: str, value: str) -> str:
    """A tag of the bus, which has a name and a value, as a tag of ClearML, which is one text."""
    text = (name if value in {"", "true", "True"} else f"{name}:{value}").replace("\0", "-").strip()
    # The server reads a tag that begins like this as an operator.
    return f"_{text}" if text.startswith("__$") else text or "_"


def _run_started(result: Plan, event: Event) -> None:
    data = _data(event, RunStarted)
    if data.loss:
        _loss(result, data, event.time)
        return
    result.reports.append(lambda life: life.start(data.rank, data.attempt, data.world.ranks))
    # An error of an earlier attempt says nothing about this one.
    result.properties[own_property(_ERROR + _of_rank(data.rank))] = ""
    result.tags |= {name: tag_text(name, value) for name, value in data.tags.items()}
    if data.config:
        text = json.dumps(data.config, ensure_ascii=False, indent=2, default=str)
        result.configuration[f"config{_of_rank(data.rank)}"] = text
    for name, value in _context(data):
        result.set_property(name + _of_rank(data.rank), value)
    if data.rank:
        return
    result.comment = data.notes or result.comment
    result.parent = data.parent or result.parent
    result.framework = data.framework or result.framework
    result.options = RunOptions.of(data.options.get("clearml", {}))
    git = data.git
    script = {
        "repository": git.remote if git else "",
        "branch": git.branch if git else "",
        "version_num": git.commit if git else "",
        "entry_point": data.program,
    }
    result.script |= {name: value for name, value in script.items() if value}


def _context(data: RunStarted) -> Iterator[tuple[str, str]]:
    yield "host", data.host
    yield "user", data.user
    yield "framework", data.framework or ""
    yield "world", f"nodes={data.world.nodes} ranks={data.world.ranks}"
    yield "git.dirty", "true" if data.git and data.git.is_dirty else ""
    yield "parent", data.parent or ""


def _params(result: Plan, event: Event) -> None:
    data = _data(event, Params)
    for param in params_of(data.section, data.params):
        result.params[param.section, param.name] = param


def _tags(result: Plan, event: Event) -> None:
    result.tags |= {name: tag_text(name, value) for name, value in _data(event, Tags).set.items()}


def _image(result: Plan, event: Event) -> None:
    data = _data(event, Image)
    result.pictures.append(Picture(event, data.title, data.series, data.step or 0))


def _plot(result: Plan, event: Event) -> None:
    data = _data(event, Plot)
    if data.blob.name.endswith(_DATA_SUFFIX):
        return
    result.pictures.append(Picture(event, data.title, data.series, data.step or 0, is_plot=True))


def _artifact(result: Plan, event: Event) -> None:
    result.artifacts.append(event)


def _checkpoint(result: Plan, event: Event) -> None:
    data = _data(event, Checkpoint)
    fitness = "" if data.fitness is None else repr(as_float(data.fitness))
    epoch = "" if data.epoch is None else str(data.epoch)
    result.set_property("checkpoint.last", " ".join(filter(None, (data.blob.name, epoch))))
    metadata = {"epoch": epoch, "fitness": fitness}
    metadata = {name: value for name, value in metadata.items() if value}
    roles = [role for role, is_it in (("best", data.is_best), ("final", data.is_final)) if is_it]
    for role in roles or [f"epoch {epoch}" if epoch else data.blob.name]:
        result.models.append(
            OutputModel(event, role, None, data.epoch, metadata, is_kept=bool(roles))
        )


def _model(result: Plan, event: Event) -> None:
    data = _data(event, Model)
    metadata = {name: repr(as_float(value)) for name, value in data.metrics.items()}
    if data.flavor:
        metadata["flavor"] = data.flavor
    result.models.append(OutputModel(event, data.name, data.name, None, metadata))


def _console(result: Plan, event: Event) -> None:
    result.console.append(event)


def _run_finished(result: Plan, event: Event) -> None:
    data = _data(event, RunFinished)
    rank = _of_rank(data.rank)
    result.set_property(f"{_ERROR}{rank}", data.error)
    if data.loss:
        _loss(result, data, event.time)
        return
    result.reports.append(
        lambda life: life.finish(data.rank, data.attempt, data.status, event.time)
    )
    if data.dropped:
        result.set_property(f"dropped{rank}", json.dumps(data.dropped))


def _loss(result: Plan, data: RunStarted | RunFinished, seconds: float) -> None:
    """The log group's word about a node that was lost, or has returned."""
    result.reports.append(lambda life: life.see_loss(data.rank, data.attempt, data.loss, seconds))


_HANDLERS: dict[type[KindData], Callable[[Plan, Event], None]] = {
    Artifact: _artifact,
    Checkpoint: _checkpoint,
    Console: _console,
    Image: _image,
    Model: _model,
    Params: _params,
    Plot: _plot,
    RunFinished: _run_finished,
    RunStarted: _run_started,
    Tags: _tags,
}

KINDS = POINT_KINDS | {
    "artifact",
    "checkpoint",
    "console",
    "image",
    "model",
    "params",
    "plot",
    "run_finished",
    "run_started",
    "tags",
}
"""All but phase, which ClearML has no place for."""


def _data(event: Event, kind: type[_D]) -> _D:
    assert isinstance(event.data, kind)
    return cast("_D", event.data)


def _of_rank(rank: int) -> str:
    return f".rank{rank}" if rank else ""
