"""What a batch of events becomes in MLflow: pure, before anything is sent.

Metrics are not expanded here: a backlog of a million points is turned into requests a thousand at a
time (:mod:`subscribers.mlflow.batches`).

Where things go:

| event        | in MLflow                                                               |
|--------------|-------------------------------------------------------------------------|
| run_started  | its tags, ``mlflow.user``, ``mlflow.source.*``, ``mlflow.note.content``; |
|              | its config as ``config.json``                                           |
| params       | params; of a section other than "General" as ``section/key``            |
| metrics, summary, system | metric points (:mod:`subscribers.mlflow.points`)            |
| image        | ``images/{title}/{series}/{step}.ext``; without a step, its file name   |
| plot         | ``plots/…`` likewise                                                    |
| artifact     | under its path                                                          |
| checkpoint   | ``checkpoints/epoch_{n}/{name}``; tags name the last, best and final    |
| model        | a LoggedModel, and a registered version when asked                      |
| run_finished | status and end time, once all ranks have finished; its error as a tag   |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from bus.errors import PermanentSinkError
from bus.events import Event
from bus.kinds import (
    Artifact,
    Checkpoint,
    Image,
    KindData,
    Metrics,
    Model,
    Params,
    Plot,
    RunFinished,
    RunStarted,
    Summary,
    System,
    Tags,
)
from bus.lifecycle import RunLife
from subscribers.mlflow import names
from subscribers.mlflow.points import POINT_KINDS

__all__ = ["Plan", "TextFile", "Upload", "plan"]

_MAX_PARAM = 6000
"""MLflow cuts longer values silently."""

_MAX_TAG = 4500

_D = TypeVar("_D", bound=KindData)


@dataclass(frozen=True, slots=True)
class Upload:
    """A blob of an event and its path among the run's artifacts."""

    event: Event
    path: str


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text and its path among the run's artifacts."""

    path: str
    text: str


@dataclass(slots=True)
class Plan:
    """All that a batch asks of MLflow.

    Attributes:
        points: The events that hold metric points, in order.
        parent: Run id, on the bus, of the run this one is nested in.
        starts: The ``run_started`` of rank 0 first, for what only one rank may say.
        reports: What the batch says about ranks, to be applied to a RunLife.
        first_seconds: The earliest time of an event; None for an empty batch.
    """

    points: list[Event] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    texts: list[TextFile] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)
    models: list[Event] = field(default_factory=list)
    parent: str | None = None
    is_starting: bool = False
    reports: list[Callable[[RunLife], None]] = field(default_factory=list)
    first_seconds: float | None = None

    def set_tag(self, name: str, value: str) -> None:
        """Set a tag of the sink; a long value is shortened and kept whole as an artifact."""
        self.tags[name] = self._fit(value, _MAX_TAG, f"tags/{names.artifact_path(name)}.txt", value)

    def set_user_tag(self, name: str, value: str) -> None:
        """Set a tag of the user, under a name that MLflow takes."""
        self.set_tag(self._kept(name, names.user_tag(name)), value)

    def set_param(self, name: str, value: Any) -> None:
        """Set a param.

        Raises:
            PermanentSinkError: The batch sets it to something else already.
        """
        key = self._kept(name, names.safe_name(name))
        whole = json.dumps(value, ensure_ascii=False, default=str)
        path = f"params/{names.artifact_path(name)}.json"
        text = self._fit(_text_of(value), _MAX_PARAM, path, whole)
        if self.params.setdefault(key, text) != text:
            raise PermanentSinkError(
                f"param {name!r} is {self.params[key][:100]!r} and cannot become {text[:100]!r}: "
                "MLflow does not change params"
            )

    def keep_names(self, keys: Sequence[str]) -> None:
        """Note the original of every key that had to change."""
        for key in keys:
            self._kept(key, names.safe_name(key))

    def _kept(self, original: str, changed: str) -> str:
        if original != changed:
            self.tags[names.name_tag(changed)] = _clean(original)[:_MAX_TAG]
        return changed

    def _fit(self, text: str, limit: int, path: str, whole: str) -> str:
        text = _clean(text)
        if len(text) <= limit:
            return text
        self.texts.append(TextFile(path, whole))
        note = f" … ({len(text)} characters; whole in {path})"
        return text[: limit - len(note)] + note


def plan(events: Sequence[Event]) -> Plan:
    """Sort the events of a batch into what MLflow is asked to do.

    Raises:
        PermanentSinkError: Two events of the batch set a param to different values.
    """
    result = Plan()
    for event in events:
        if event.kind in POINT_KINDS:
            result.points.append(event)
        _HANDLERS[type(event.data)](result, event)
    result.first_seconds = min((event.time for event in events), default=None)
    return result


def _run_started(result: Plan, event: Event) -> None:
    data = _data(event, RunStarted)
    if data.loss:
        _loss(result, data, event.time)
        return
    result.is_starting = True
    result.reports.append(lambda life: life.start(data.rank, data.attempt, data.world.ranks))
    for name, value in data.tags.items():
        result.set_user_tag(name, value)
    if data.parent:
        result.parent = data.parent
        result.set_tag("trainbus.parent", data.parent)
    if data.notes:
        result.set_tag("mlflow.note.content", data.notes)
    for name, value in _context(data).items():
        result.set_tag(name + _of_rank(data.rank), value)
    if data.config:
        path = f"config{_of_rank(data.rank)}.json"
        text = json.dumps(data.config, ensure_ascii=False, indent=2, default=str)
        result.texts.append(TextFile(path, text))


def _context(data: RunStarted) -> Mapping[str, str]:
    """What describes a process: MLflow's own tags for rank 0, with the rank behind for others."""
    git = data.git
    options = data.options.get("mlflow", {})
    tags = {
        "mlflow.user": data.user,
        "mlflow.source.name": data.program,
        "mlflow.source.type": "LOCAL" if data.program else "",
        "mlflow.source.git.commit": git.commit if git else "",
        "mlflow.source.git.branch": git.branch if git else "",
        "mlflow.source.git.repoURL": git.remote if git else "",
        "trainbus.git.dirty": "true" if git and git.is_dirty else "",
        "trainbus.framework": data.framework or "",
        "trainbus.host": data.host,
        "trainbus.world": f"nodes={data.world.nodes} ranks={data.world.ranks}",
        "trainbus.registered_model": str(options.get("registered_model_name") or ""),
    }
    return {name: value for name, value in tags.items() if value}


def _params(result: Plan, event: Event) -> None:
    data = _data(event, Params)
    prefix = "" if data.section == "General" else f"{data.section}/"
    for name, value in data.params.items():
        result.set_param(prefix + name, value)


def _metrics(result: Plan, event: Event) -> None:
    for table in _data(event, Metrics).tables:
        result.keep_names(table.keys)


def _summary(result: Plan, event: Event) -> None:
    result.keep_names(list(_data(event, Summary).values))


def _system(result: Plan, event: Event) -> None:
    result.keep_names([f"system/{name}" for name in _data(event, System).values])


def _tags(result: Plan, event: Event) -> None:
    for name, value in _data(event, Tags).set.items():
        result.set_user_tag(name, value)


def _image(result: Plan, event: Event) -> None:
    data = _data(event, Image)
    result.uploads.append(Upload(event, _picture("images", data)))


def _plot(result: Plan, event: Event) -> None:
    data = _data(event, Plot)
    result.uploads.append(Upload(event, _picture("plots", data)))


def _picture(root: str, data: Image | Plot) -> str:
    # A title may have levels, a series has one: "a/b" of "c" is not "a" of "b/c".
    folder = f"{root}/{names.artifact_path(data.title)}/{names.level(data.series)}"
    if data.step is None:
        return f"{folder}/{names.level(data.blob.name)}"
    return f"{folder}/{data.step}{names.suffix_of(data.blob.name)}"


def _artifact(result: Plan, event: Event) -> None:
    path = _data(event, Artifact).path
    safe = names.artifact_path(path)
    if safe != path.strip("/"):
        result.tags[names.name_tag(safe)] = _clean(path)[:_MAX_TAG]
    result.uploads.append(Upload(event, safe))


def _checkpoint(result: Plan, event: Event) -> None:
    data = _data(event, Checkpoint)
    folder = "checkpoints" if data.epoch is None else f"checkpoints/epoch_{data.epoch}"
    path = f"{folder}/{names.level(data.blob.name)}"
    result.uploads.append(Upload(event, path))
    result.set_tag("trainbus.checkpoint.last", path)
    if data.is_best:
        result.set_tag("trainbus.checkpoint.best", path)
        fitness = "" if data.fitness is None else repr(float(data.fitness))
        result.set_tag("trainbus.checkpoint.best_fitness", fitness)
    if data.is_final:
        result.set_tag("trainbus.checkpoint.final", path)


def _model(result: Plan, event: Event) -> None:
    result.keep_names(list(_data(event, Model).metrics))
    result.models.append(event)


def _run_finished(result: Plan, event: Event) -> None:
    data = _data(event, RunFinished)
    if data.loss:
        _loss(result, data, event.time)
        result.set_tag(f"trainbus.error{_of_rank(data.rank)}", data.error)
        return
    result.reports.append(
        lambda life: life.finish(data.rank, data.attempt, data.status, event.time)
    )
    if data.error:
        result.set_tag(f"trainbus.error{_of_rank(data.rank)}", data.error)
    if data.dropped:
        result.set_tag(f"trainbus.dropped{_of_rank(data.rank)}", json.dumps(data.dropped))


def _loss(result: Plan, data: RunStarted | RunFinished, seconds: float) -> None:
    """The log group's word about a node that was lost, or has returned."""
    result.reports.append(lambda life: life.see_loss(data.rank, data.attempt, data.loss, seconds))


_HANDLERS: dict[type[KindData], Callable[[Plan, Event], None]] = {
    Artifact: _artifact,
    Checkpoint: _checkpoint,
    Image: _image,
    Metrics: _metrics,
    Model: _model,
    Params: _params,
    Plot: _plot,
    RunFinished: _run_finished,
    RunStarted: _run_started,
    Summary: _summary,
    System: _system,
    Tags: _tags,
}


def _data(event: Event, kind: type[_D]) -> _D:
    assert isinstance(event.data, kind)
    return cast("_D", event.data)


def _of_rank(rank: int) -> str:
    return f".rank{rank}" if rank else ""


def _text_of(value: Any) -> str:
    """A param as MLflow's own client writes it; what has an inside, as JSON."""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _clean(text: str) -> str:
    # PostgreSQL takes no NUL in a text.
    return text.replace("\0", "\\0")
