"""Finding and creating runs. Every function blocks and takes the client first.

A run is found by the tag ``trainbus.run_key`` in the experiment of its project: MLflow gives runs
ids of its own. The key is a hash, because MLflow's filter language cannot quote every run id; the
id itself is in ``trainbus.run_id``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from bus.errors import EventError, PermanentSinkError
from bus.lifecycle import Outcome, RunLife
from bus.sinks import Marks, RunRef
from subscribers.marks import join_text, marks_from_texts
from subscribers.mlflow.errors import error_code
from subscribers.mlflow.names import experiment_name
from subscribers.mlflow.points import to_ms
from subscribers.mlflow.tracker import Address

__all__ = [
    "LIFE_TAG",
    "REGISTERED_TAG",
    "RunState",
    "create_run",
    "experiment_id",
    "find_experiment",
    "find_run",
    "link_children",
    "link_parent",
    "set_status",
]

_log = logging.getLogger(__name__)

LIFE_TAG = "trainbus.ranks"
"""The tag with the text form of the run's RunLife."""

REGISTERED_TAG = "trainbus.registered_model"
"""The tag with the registered model that the run's options name."""

_RUN_KEY = "trainbus.run_key"
_PARENT_KEY = "trainbus.parent_key"
_PARENT = "mlflow.parentRunId"
_MAX_TAG = 4500

_STATUSES = {"completed": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


@dataclass(slots=True)
class RunState:
    """What the sink knows of an open run.

    Attributes:
        run_id: MLflow's id of it; None until the first write creates it.
        tags: The tags of the sink as MLflow last confirmed them.
        status: MLflow's word and end time in ms, as last confirmed; None when unknown.
    """

    experiment: str
    run_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    life: RunLife = field(default_factory=RunLife)
    status: tuple[str, int | None] | None = None

    @classmethod
    def of(cls, experiment: str, run: Run | None) -> RunState:
        """The state of a run as MLflow gave it, or of one that is to be created."""
        if run is None:
            return cls(experiment)
        tags = {key: value for key, value in run.data.tags.items() if key.startswith("trainbus.")}
        return cls(
            experiment,
            run.info.run_id,
            tags,
            _life_from(tags),
            (run.info.status, run.info.end_time),
        )

    @property
    def marks(self) -> Marks:
        """The marks in the tags."""
        return marks_from_texts(self.tags)


def _life_from(tags: Mapping[str, str]) -> RunLife:
    try:
        return RunLife.parse(join_text(LIFE_TAG, tags) or "")
    except EventError:
        _log.warning("tag %s is damaged: the run ends when its ranks report again", LIFE_TAG)
        return RunLife()


def key_of(run: str) -> str:
    """The text by which a run is searched."""
    return hashlib.sha256(run.encode()).hexdigest()[:32]


def find_experiment(client: MlflowClient, project: str) -> str | None:
    """The id of a project's experiment; None when there is none.

    Raises:
        PermanentSinkError: It is deleted, and its name is taken for as long.
    """
    name = experiment_name(project)
    found = client.get_experiment_by_name(name)
    if found is None:
        return None
    if found.lifecycle_stage != "active":
        raise PermanentSinkError(
            f"experiment {name!r} is deleted in MLflow: restore it there and retry the dead "
            "letters, or use another project"
        )
    return str(found.experiment_id)


def experiment_id(client: MlflowClient, address: Address, project: str) -> str:
    """The id of a project's experiment, which is created when there is none."""
    found = find_experiment(client, project)
    if found is not None:
        return found
    name = experiment_name(project)
    try:
        return str(client.create_experiment(name, address.artifact_location(name)))
    except MlflowException as error:
        # Another worker was faster.
        found = find_experiment(client, project)
        if error_code(error) != "RESOURCE_ALREADY_EXISTS" or found is None:
            raise
        return found


def find_run(client: MlflowClient, experiment: str, run: str) -> Run | None:
    """A run by its id on the bus; the oldest, should there be twins.

    Raises:
        PermanentSinkError: Somebody deleted it in MLflow: it is left deleted.
    """
    found = _search(client, experiment, _RUN_KEY, key_of(run), ViewType.ALL)
    active = [item for item in found if item.info.lifecycle_stage == "active"]
    if found and not active:
        raise PermanentSinkError(
            f"run {run!r} is deleted in MLflow and left so: restore it there and retry the dead "
            "letters"
        )
    return min(active, key=lambda item: (item.info.start_time, item.info.run_id), default=None)


def create_run(client: MlflowClient, experiment: str, ref: RunRef, start_seconds: float) -> Run:
    """Create a run with its original start time (Unix seconds)."""
    return client.create_run(
        experiment,
        # MLflow takes 0 for "now".
        start_time=max(to_ms(start_seconds), 1),
        tags={"trainbus.run_id": ref.run[:_MAX_TAG], _RUN_KEY: key_of(ref.run)},
        run_name=ref.run_name.replace("\0", "-")[:250],
    )


def set_status(client: MlflowClient, state: RunState, outcome: Outcome | None) -> None:
    """Give a run the status and end time that its ranks' states say, where it differs.

    A run that reopens keeps the old end time in MLflow, which has no call to clear it, until it
    ends again.
    """
    if outcome is None:
        wanted: tuple[str, int | None] = ("RUNNING", state.status[1] if state.status else None)
    else:
        wanted = (_STATUSES[outcome.status], max(to_ms(outcome.end_seconds), 1))
    if state.status == wanted:
        return
    state.status = None
    if outcome is None:
        client.update_run(state.run_id, status="RUNNING")
    else:
        # Without an end time MLflow would take now.
        client.set_terminated(state.run_id, *wanted)
    state.status = wanted


def link_parent(client: MlflowClient, state: RunState, parent: str) -> dict[str, str]:
    """The tags that nest a run in its parent.

    The parent may come later: :func:`link_children` finds this run by the tag set here. Each side
    first writes what the other looks for and then looks, so that one of them finds the other.
    """
    if state.tags.get(_PARENT_KEY) != key_of(parent):
        client.set_tag(state.run_id, _PARENT_KEY, key_of(parent))
        state.tags[_PARENT_KEY] = key_of(parent)
    found = _search(client, state.experiment, _RUN_KEY, key_of(parent), ViewType.ACTIVE_ONLY)
    return {_PARENT: found[0].info.run_id} if found else {}


def link_children(client: MlflowClient, state: RunState, run: str) -> None:
    """Nest the runs that were created before this one, their parent."""
    for child in _search(client, state.experiment, _PARENT_KEY, key_of(run), ViewType.ACTIVE_ONLY):
        if child.data.tags.get(_PARENT) != state.run_id:
            client.set_tag(child.info.run_id, _PARENT, state.run_id)


def _search(client: MlflowClient, experiment: str, tag: str, value: str, view: int) -> list[Run]:
    return list(
        client.search_runs(
            [experiment],
            f"tags.`{tag}` = '{value}'",
            run_view_type=view,
            max_results=1000,
            order_by=["attributes.start_time ASC"],
        )
    )
