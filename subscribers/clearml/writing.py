"""The steps of a write. Every function blocks and takes the Api first.

They are taken in this order, so that a kill at any point leaves a batch that can be written again
and never one that counts as written and is not:

1. the task is created, if need be, and set to "in progress" (:func:`begin`);
2. scalars, pictures and console lines (:func:`send_events`);
3. its description, hyperparameters and configuration (:func:`describe`);
4. models and artifacts (:mod:`subscribers.clearml.models`);
5. its status, once all ranks have ended, and last, in one update of the task, the applied marks
   with all that is counted or remembered beside them (:func:`finish`).

What is written again changes nothing, but for console lines: the server gives each an id of its
own, so that a kill between 2 and 5 leaves those of the batch twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from threading import Event as Flag
from typing import Any

from bus.errors import PermanentSinkError
from bus.lifecycle import RunLife
from bus.sinks import Marks, RunRef
from subscribers.clearml import tasks
from subscribers.clearml.api import Api
from subscribers.clearml.errors import AnswerError
from subscribers.clearml.events import console_events, scalar_events, send
from subscribers.clearml.names import own_property
from subscribers.clearml.plan import Plan, reason_of
from subscribers.clearml.points import NonFiniteNotes
from subscribers.clearml.tasks import TaskState
from subscribers.marks import marks_to_texts, split_text

__all__ = ["begin", "describe", "explained", "finish", "refuse_locked", "send_events"]

_BAD_REQUEST = 400
_PARENT = own_property("parent")


def begin(api: Api, state: TaskState, planned: Plan) -> None:
    """Set the task to "in progress" where the run or the calls to come want it so.

    Raises:
        PermanentSinkError: The task is published or deleted.
    """
    if planned.is_editing or planned.tags or planned.reports:
        tasks.refresh(api, state)
    refuse_locked(state)
    if state.status == "in_progress":
        return
    is_running = life_after(state, planned).outcome() is None
    # Of a task that has ended the server edits nothing: it is begun again, and ended at last.
    must_begin = planned.is_editing or state.status == "created"
    if must_begin or (is_running and not state.is_aborted):
        tasks.start(api, state)


def refuse_locked(state: TaskState) -> None:
    """Leave a published task as it is.

    Raises:
        PermanentSinkError: It is one.
    """
    if state.status in tasks.LOCKED:
        raise PermanentSinkError(
            f"task {state.task} of run {state.ref.run!r} is published in ClearML and takes nothing "
            "more: reset it there and retry the dead letters"
        )


def life_after(state: TaskState, planned: Plan) -> RunLife:
    """What is known of the ranks once the batch is written."""
    life = state.life.copy()
    for report in planned.reports:
        report(life)
    return life


def send_events(
    api: Api, state: TaskState, planned: Plan, pictures: Iterable[bytes], stop: Flag
) -> NonFiniteNotes:
    """Send scalars, pictures and console lines; returns what could not be sent.

    Raises:
        PermanentSinkError: At least one event is refused, or the task is published or deleted.
    """
    notes = NonFiniteNotes(state.properties.get(tasks.NON_FINITE, ""))
    scalars = scalar_events(state.task, planned.points, notes)
    console = console_events(state.task, planned.console)
    with explained(api, state):
        send(api, chain(scalars, pictures, console), stop)
    return notes


def describe(api: Api, state: TaskState, planned: Plan, project: str) -> None:
    """Write what describes the task, its hyperparameters and configuration.

    ``project`` is ClearML's id of the project it is to be in.
    """
    fields = _fields(api, state, planned)
    if project != state.project:
        fields["project"] = project
    with explained(api, state):
        if fields:
            api.call("tasks.edit", {"task": state.task, "force": True, **fields})
            state.tags = fields.get("tags", state.tags)
            state.project = fields.get("project", state.project)
            state.parent = fields.get("parent", state.parent)
        if planned.params:
            items = [param.item for param in planned.params.values()]
            body = {"task": state.task, "force": True, "hyperparams": items}
            api.call("tasks.edit_hyper_params", body)
        if planned.configuration:
            texts = [
                {"name": name, "value": text, "type": "json", "description": ""}
                for name, text in planned.configuration.items()
            ]
            body = {"task": state.task, "force": True, "configuration": texts}
            api.call("tasks.edit_configuration", {**body, "replace_configuration": False})


def finish(api: Api, state: TaskState, planned: Plan, notes: NonFiniteNotes, marks: Marks) -> None:
    """Write the status and then the marks, with what is remembered beside them."""
    life = life_after(state, planned)
    outcome = life.outcome()
    with explained(api, state):
        if outcome is not None and (planned.reports or state.status == "in_progress"):
            reason = reason_of(state.properties | planned.properties)
            tasks.end(api, state, outcome, reason)
        tasks.set_properties(api, state, _remembered(state, planned, notes, marks, life))
    state.life = life


def _remembered(
    state: TaskState, planned: Plan, notes: NonFiniteNotes, marks: Marks, life: RunLife
) -> dict[str, str]:
    said = planned.properties.items()
    texts = {name: text for name, text in said if text or state.properties.get(name)}
    texts |= marks_to_texts(marks)
    if notes.text:
        texts[tasks.NON_FINITE] = notes.text
    if planned.reports:
        texts |= split_text(tasks.LIFE, str(life))
    if planned.options is not None and planned.options != state.options:
        texts[tasks.OPTIONS] = str(planned.options)
    if planned.tags:
        texts[tasks.TAGS] = json.dumps({**_known_tags(state), **planned.tags}, ensure_ascii=False)
    return texts


def _fields(api: Api, state: TaskState, planned: Plan) -> dict[str, Any]:
    """What ``tasks.edit`` is to change."""
    fields: dict[str, Any] = {}
    if planned.comment:
        fields["comment"] = planned.comment
    if planned.script:
        fields["script"] = planned.script
    if planned.tags:
        known = _known_tags(state)
        replaced = {known[name] for name in planned.tags if name in known}
        kept = [tag for tag in state.tags if tag not in replaced]
        fields["tags"] = list(dict.fromkeys([*kept, *planned.tags.values()]))
    parent = _parent(api, state, planned)
    if parent:
        fields["parent"] = parent
    options = planned.options
    if options is not None and str(options):
        fields["type"] = options.task_type
        if options.output_destination:
            fields["output_dest"] = options.output_destination
    return fields


def _parent(api: Api, state: TaskState, planned: Plan) -> str:
    """The task of the run this one is nested in, looked for at the start and, else, at the end.

    At the start of both, the parent's task may not be there yet.
    """
    if state.parent or not (planned.parent or planned.reports):
        return ""
    run = planned.parent or state.properties.get(_PARENT, "")
    return tasks.find_task(api, RunRef(state.ref.project, run, "")).task if run else ""


def _known_tags(state: TaskState) -> dict[str, str]:
    """Per name on the bus, the tag that stands for it."""
    try:
        return dict(json.loads(state.properties.get(tasks.TAGS) or "{}"))
    except (ValueError, TypeError):
        return {}


@contextmanager
def explained(api: Api, state: TaskState) -> Iterator[None]:
    """Say of a task that refuses what others have done to it.

    Raises:
        PermanentSinkError: It is deleted or published.
    """
    try:
        yield
    except AnswerError as error:
        if error.status == _BAD_REQUEST:
            tasks.refresh(api, state)
            refuse_locked(state)
        raise
