"""What the sink knows of a session, and what of it goes into ``task.json``. Pure.

``trainbus.json`` holds the state. It is replaced as a whole and last in every write: what it does
not say has not been written. ``metrics_bytes`` and ``log_bytes`` are how much of the two files of
lines belongs to it; what lies beyond is left of a write that was cut short, and is cut off by the
next. ``generation`` counts the writes, so that a worker that was overtaken finds out.

The marks, the ranks and the note about values left out also stand in ``task.json`` as user
properties, under the names the live sink uses: a task that was imported can be gone on with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from bus.errors import EventError
from bus.lifecycle import Outcome, RunLife
from bus.sinks import Marks, RunRef
from subscribers.clearml.names import (
    PROPERTIES,
    model_name,
    own_property,
    project_name,
    run_tag,
    task_name,
)
from subscribers.clearml.offline.layout import Layout
from subscribers.clearml.options import RunOptions
from subscribers.clearml.params import Param
from subscribers.clearml.plan import Plan, reason_of
from subscribers.marks import marks_from_texts, marks_to_texts, split_text

__all__ = [
    "STATE_VERSION",
    "ArtifactEntry",
    "ModelEntry",
    "SessionState",
    "StateHeader",
    "task_json",
]

STATE_VERSION = 1


class StateHeader(msgspec.Struct, frozen=True):
    """What every version of ``trainbus.json`` says."""

    version: int


class ModelEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """An output model.

    Attributes:
        file: Its weights, relative to the session; empty when they stay where they are.
        url: Where they are, if not in the session.
        is_package: The weights are a zip of a folder.
    """

    name: str | None = None
    file: str = ""
    url: str = ""
    iteration: int | None = None
    metadata: dict[str, str] = {}
    framework: str | None = None
    is_package: bool = False


class ArtifactEntry(msgspec.Struct, frozen=True):
    """An artifact; ``file`` is relative to the session."""

    file: str
    size: int
    sha256: str
    seconds: int
    is_package: bool = False


class SessionState(msgspec.Struct, omit_defaults=True):
    """The content of ``trainbus.json``.

    Attributes:
        params: Hyperparameters by section and name, as items of a request.
        properties: The sink's own user properties but those made of other fields.
        tags: Per name on the bus the tag to show.
        marks: Texts of :mod:`subscribers.marks`.
    """

    version: int
    generation: int = 0
    metrics_bytes: int = 0
    log_bytes: int = 0
    marks: dict[str, str] = {}
    life: str = ""
    nonfinite: str = ""
    params: dict[str, dict[str, dict[str, str]]] = {}
    properties: dict[str, str] = {}
    tags: dict[str, str] = {}
    comment: str = ""
    configuration: dict[str, str] = {}
    script: dict[str, str] = {}
    options: str = ""
    models: dict[str, ModelEntry] = {}
    artifacts: dict[str, ArtifactEntry] = {}

    def apply(self, planned: Plan, marks: Marks) -> None:
        """Take over what a batch says, but for its lines and files."""
        for param in planned.params.values():
            self.params.setdefault(param.section, {})[param.name] = param.item
        self.properties |= planned.properties
        self.tags |= planned.tags
        self.configuration |= planned.configuration
        self.script |= planned.script
        self.comment = planned.comment or self.comment
        if planned.options is not None:
            self.options = str(planned.options)
        life = self.ranks()
        for report in planned.reports:
            report(life)
        self.life = str(life)
        self.marks = marks_to_texts(marks)

    def ranks(self) -> RunLife:
        """The ranks of the run; a damaged text counts as none."""
        try:
            return RunLife.parse(self.life)
        except EventError:
            return RunLife()

    @property
    def outcome(self) -> Outcome | None:
        """How the run ended; None while it runs."""
        return self.ranks().outcome()

    @property
    def run_options(self) -> RunOptions:
        """What the run says about ClearML."""
        return RunOptions.parse(self.options)

    def read_marks(self) -> Marks:
        """The applied marks."""
        return marks_from_texts(self.marks)


def task_json(state: SessionState, layout: Layout) -> dict[str, Any]:
    """The content of ``task.json``."""
    options, outcome, run = state.run_options, state.outcome, layout.run
    status = "in_progress" if outcome is None else _STATUSES[outcome.status]
    properties = _properties(state, run)
    hyperparams = {name: dict(items) for name, items in state.params.items()}
    hyperparams.setdefault(PROPERTIES, {}).update(properties)
    task = {
        "id": layout.id,
        "name": task_name(run.run_name),
        "project_name": project_name(options.project or run.project),
        "type": options.task_type,
        "comment": state.comment,
        "tags": _tags(state, layout),
        "system_tags": ["development"],
        "status": status,
        "status_reason": reason_of(state.properties),
        "hyperparams": hyperparams,
        "configuration": {
            name: {"name": name, "value": text, "type": "json"}
            for name, text in state.configuration.items()
        },
        "script": state.script,
        "execution": {"artifacts": [_artifact(*item) for item in state.artifacts.items()]},
        "offline_folder": "",
        "offline_output_models": [_model(state, layout, *item) for item in state.models.items()],
    }
    if options.output_destination:
        task["output_dest"] = options.output_destination
    return task


_STATUSES = {"completed": "completed", "failed": "failed", "killed": "stopped"}
"""ClearML's words for how a run ended."""


def _tags(state: SessionState, layout: Layout) -> list[str]:
    tags = [run_tag(layout.run.run), *state.tags.values()]
    outcome = state.outcome
    if outcome is not None and outcome.status != "completed":
        # The importer marks every task completed: its tags still say what happened.
        tags.append(outcome.status)
    return list(dict.fromkeys(tags))


def _properties(state: SessionState, run: RunRef) -> dict[str, dict[str, str]]:
    outcome = state.outcome
    texts: Mapping[str, str] = {
        **state.properties,
        **state.marks,
        **split_text(own_property("ranks"), state.life),
        own_property("nonfinite"): state.nonfinite,
        own_property("options"): state.options,
        own_property("tags"): json.dumps(state.tags, ensure_ascii=False) if state.tags else "",
        own_property("status"): "running" if outcome is None else outcome.status,
        own_property("project"): run.project,
        own_property("run"): run.run,
    }
    return {name: Param(PROPERTIES, name, text, "str").item for name, text in texts.items() if text}


def _artifact(key: str, entry: ArtifactEntry) -> dict[str, Any]:
    return {
        "key": key,
        "type": "archive" if entry.is_package else "custom",
        "mode": "output",
        "uri": entry.file,
        "content_size": entry.size,
        "hash": entry.sha256,
        "timestamp": entry.seconds,
    }


def _model(state: SessionState, layout: Layout, role: str, entry: ModelEntry) -> dict[str, Any]:
    notes = [f"{name}: {value}" for name, value in entry.metadata.items()]
    file = layout.folder / entry.file if entry.file else None
    return {
        "id": f"{layout.id}-{role}",
        "output_uri": state.run_options.output_destination or layout.destination or None,
        "init": {
            "name": model_name(entry.name or layout.run.run_name),
            "comment": "\n".join(notes),
            "framework": entry.framework,
            "tags": [],
            "config_text": None,
            "config_dict": None,
            "label_enumeration": None,
        },
        "weights": {
            "weights_filename": None if file is None else str(file),
            "target_filename": None if file is None else file.name,
            "register_uri": entry.url or None,
            "upload_uri": None,
            "iteration": entry.iteration,
            "update_comment": False,
            "is_package": entry.is_package,
        },
    }
