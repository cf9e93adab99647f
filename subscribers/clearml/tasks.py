"""Finding, creating and steering tasks. Every function blocks and takes the Api first.

A task is found by the tag ``trainbus-run:{run}``: the server gives tasks ids of their own. Which
project of the bus it belongs to stands in a user property that is written when the task is created,
so that a person may move the task to another project. Another property holds the task's own id: a
clone carries the tag and the properties of its original, and is told apart by it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bus.errors import EventError, PermanentSinkError
from bus.lifecycle import Outcome, RunLife
from bus.sinks import Marks, RunRef
from subscribers.clearml.api import Api
from subscribers.clearml.errors import AnswerError
from subscribers.clearml.names import (
    PROPERTIES,
    own_property,
    run_tag,
    task_folder,
    task_name,
)
from subscribers.clearml.options import RunOptions
from subscribers.clearml.params import Param
from subscribers.marks import join_text, marks_from_texts

__all__ = [
    "LIFE",
    "LOCKED",
    "NON_FINITE",
    "OPTIONS",
    "TAGS",
    "TaskState",
    "create_task",
    "end",
    "find_task",
    "known_project",
    "project_id",
    "refresh",
    "set_properties",
    "start",
]

_log = logging.getLogger(__name__)

LIFE = own_property("ranks")
"""The text form of the run's RunLife."""

OPTIONS = own_property("options")
NON_FINITE = own_property("nonfinite")
TAGS = own_property("tags")
_PROJECT = own_property("project")
_RUN = own_property("run")
_TASK = own_property("task")

LOCKED = frozenset({"published", "publishing"})
"""A task in such a state takes no events, and is never changed."""

_WATCHDOG = "Forced stop (non-responsive)"
"""The reason the server gives when it stops a task that was silent for 7,200 s."""

_FIELDS = [
    *("id", "name", "project", "status", "status_reason", "status_message", "tags", "created"),
    *("parent", "hyperparams"),
]
_UNIQUE = 801
_CALLS = {"completed": "tasks.completed", "failed": "tasks.failed", "stopped": "tasks.stopped"}
_STATUSES = {"completed": "completed", "failed": "failed", "killed": "stopped"}
_MAX_REASON = 1000


@dataclass(slots=True)
class TaskState:
    """What the sink knows of an open run.

    Attributes:
        ref: The run.
        task: ClearML's id of it; None until the first write creates it.
        project: ClearML's id of its project.
        status: As last confirmed.
        was_silent: The server stopped it because it had not heard of it for long.
        properties: User properties as last confirmed.
        tags: As last confirmed.
        unsure: Properties that were sent, and nobody knows whether they arrived.
        seen_seconds: When ClearML last answered about it (monotonic).
    """

    ref: RunRef
    task: str = ""
    project: str = ""
    status: str = ""
    was_silent: bool = False
    parent: str = ""
    properties: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    life: RunLife = field(default_factory=RunLife)
    unsure: set[str] = field(default_factory=set)
    seen_seconds: float = 0.0

    @property
    def marks(self) -> Marks:
        """The marks in the properties."""
        return marks_from_texts(self.properties)

    @property
    def is_aborted(self) -> bool:
        """A person stopped it while it ran: it is not begun again without need."""
        is_stopped = self.status == "stopped" and not self.was_silent
        return is_stopped and self.life.outcome() is None

    @property
    def options(self) -> RunOptions:
        """What the run said about ClearML."""
        return RunOptions.parse(self.properties.get(OPTIONS, ""))

    @property
    def folder(self) -> str:
        """Where its files lie on the file server."""
        return task_folder(self.ref.project, self.ref.run_name, self.task)

    def take_over(self, other: TaskState) -> None:
        """Take over what others may have changed."""
        self.project, self.status, self.was_silent = other.project, other.status, other.was_silent
        self.parent, self.tags = other.parent, other.tags

    def read(self, document: Mapping[str, Any]) -> None:
        """Take over all that the server says."""
        self.read_again(document)
        self.task = str(document["id"])
        self.properties = _properties(document)
        self.life = _life_from(self.properties)

    def read_again(self, document: Mapping[str, Any]) -> None:
        """Take over what others may have changed: all but what only this sink writes."""
        self.project = str(document.get("project") or "")
        self.status = str(document.get("status") or "")
        reason = str(document.get("status_reason") or "")
        message = str(document.get("status_message") or "")
        self.was_silent = _WATCHDOG in {reason, message}
        self.parent = str(document.get("parent") or "")
        self.tags = [str(tag) for tag in document.get("tags") or []]


def find_task(api: Api, ref: RunRef) -> TaskState:
    """The state of a run; without a task when it has none. The oldest, should there be twins."""
    query = {"tags": [run_tag(ref.run)], "only_fields": _FIELDS, "order_by": ["created"]}
    state = TaskState(ref)
    for document in api.find("tasks.get_all", query):
        held = _properties(document)
        is_ours = held.get(_PROJECT, ref.project) == ref.project
        if is_ours and held.get(_TASK, document["id"]) == document["id"]:
            state.read(document)
            break
    return state


def refresh(api: Api, state: TaskState) -> None:
    """Read again what others may have changed: status, place, tags.

    Raises:
        PermanentSinkError: The task was deleted: it is left deleted.
    """
    found = api.find("tasks.get_all", {"id": [state.task], "only_fields": _FIELDS})
    if not found:
        raise PermanentSinkError(
            f"task {state.task} of run {state.ref.run!r} is deleted in ClearML and left so"
        )
    state.read_again(found[0])


def known_project(api: Api, name: str) -> str | None:
    """The id of a project; None when there is none. The oldest, should there be twins."""
    query = {
        "name": f"^{re.escape(name)}$",
        "only_fields": ["id", "name", "created"],
        "shallow_search": False,
        "order_by": ["created"],
    }
    found = api.find("projects.get_all", query)
    return next((str(one["id"]) for one in found if one.get("name") == name), None)


def project_id(api: Api, name: str) -> str:
    """The id of a project, which is created when there is none."""
    found = known_project(api, name)
    if found is not None:
        return found
    try:
        return api.create("projects.create", {"name": name, "description": ""})
    except AnswerError as error:
        # Another worker was faster.
        found = known_project(api, name)
        if error.subcode != _UNIQUE or found is None:
            raise
        return found


def create_task(api: Api, state: TaskState, options: RunOptions, project: str) -> None:
    """Create the task of a run, unless an earlier try did and did not live to see the answer.

    ``project`` is ClearML's id of the project it goes to.
    """
    found = find_task(api, state.ref)
    if not found.task:
        ref = state.ref
        own = {_PROJECT: ref.project, _RUN: ref.run}
        body = {
            "name": task_name(ref.run_name),
            "type": options.task_type,
            "project": project,
            "tags": [run_tag(ref.run)],
            "system_tags": ["development"],
            "comment": "",
            "hyperparams": {PROPERTIES: {name: _item(name, own[name]) for name in own}},
        }
        if options.output_destination:
            body["output_dest"] = options.output_destination
        created = api.create("tasks.create", body)
        found = TaskState(ref, created, project, "created")
        found.tags, found.properties = [run_tag(ref.run)], own
    state.take_over(found)
    state.task, state.properties, state.life = found.task, found.properties, found.life


def start(api: Api, state: TaskState) -> None:
    """Set a task to "in progress", whatever its status, but for a published one."""
    api.call("tasks.started", {"task": state.task, "force": True})
    state.status, state.was_silent = "in_progress", False


def end(api: Api, state: TaskState, outcome: Outcome, reason: str) -> None:
    """Give a task the status its ranks' states say."""
    wanted = _STATUSES[outcome.status]
    if state.status == wanted:
        return
    body = {"task": state.task, "force": True, "status_reason": reason[:_MAX_REASON]}
    api.call(_CALLS[wanted], body)
    state.status, state.was_silent = wanted, False


def set_properties(api: Api, state: TaskState, properties: Mapping[str, str]) -> None:
    """Write user properties, all in one update of the task; those that are there are left out.

    They may be written whatever the status of the task.
    """
    wanted = {**properties, _TASK: state.task}
    changed = {
        name: text
        for name, text in wanted.items()
        if state.properties.get(name) != text or name in state.unsure
    }
    if not changed:
        return
    # Counts in them go on from what was confirmed, until the answer is here.
    state.unsure |= set(changed)
    items = [_item(name, text) for name, text in changed.items()]
    api.call("tasks.edit_hyper_params", {"task": state.task, "hyperparams": items})
    state.unsure -= set(changed)
    state.properties |= changed


def _item(name: str, value: str) -> dict[str, str]:
    return Param(PROPERTIES, name, value, "str").item


def _properties(document: Mapping[str, Any]) -> dict[str, str]:
    section = (document.get("hyperparams") or {}).get(PROPERTIES) or {}
    return {str(name): str(item.get("value") or "") for name, item in section.items()}


def _life_from(properties: Mapping[str, str]) -> RunLife:
    try:
        return RunLife.parse(join_text(LIFE, properties) or "")
    except EventError:
        _log.warning("%s is damaged: the run ends when its ranks report again", LIFE)
        return RunLife()
