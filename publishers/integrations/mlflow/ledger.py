"""What this process has told the bus through MLflow: experiments, runs, models, their files.

MLflow makes a store per URI and thread of thought, an artifact repository per run, and a registry;
all of them look here.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from mlflow.entities.model_registry import ModelVersion

from bus.config import Settings
from bus.errors import ConfigError, EventError
from publishers.integrations.mlflow import names
from publishers.integrations.mlflow.kept import DEFAULT_BUDGET_BYTES, Kept
from publishers.integrations.mlflow.models import KnownModel
from publishers.integrations.mlflow.runs import PARENT_TAG, KnownRun, RunFacts
from publishers.integrations.mlflow.unsupported import invalid, unknown
from publishers.run import Run as BusRun
from publishers.snapshot import read_reserve
from publishers.start import start_run

__all__ = ["KnownExperiment", "Ledger", "current"]

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 10.0
"""At the end of the process, for what has ended and is not confirmed as stored yet."""

_BUDGET_VARIABLE = "TRAINBUS_MLFLOW_KEEP"
_ADOPTED_ATTEMPT = 2
"""The process that made the run has written the first."""


@dataclass(slots=True)
class KnownExperiment:
    """An experiment that this process has named: a project of the bus."""

    name: str
    tags: dict[str, str] = field(default_factory=dict)
    created_ms: int = field(default_factory=lambda: int(time.time() * 1000))


class Ledger:
    """The memory of one process. Any thread may use it."""

    def __init__(
        self, environ: Mapping[str, str], start: Callable[..., BusRun] = start_run
    ) -> None:
        """Begin with nothing known.

        Args:
            environ: Environment variables.
            start: As :func:`publishers.start_run`.

        Raises:
            ConfigError: A setting is wrong; the message names it.
        """
        self._environ = dict(environ)
        self._start = start
        self.lock = threading.RLock()
        self.files_lock = threading.RLock()
        self.experiments = {names.DEFAULT_ID: KnownExperiment(names.DEFAULT_NAME)}
        self.runs: dict[str, KnownRun] = {}
        self.models: dict[str, KnownModel] = {}
        self.registered: dict[str, list[ModelVersion]] = {}
        self.last_model = ""
        spool = Settings.from_environment(self._environ).spool
        budget, reserve = _read_budget(self._environ), read_reserve(self._environ)
        self._make_kept = partial(Kept, spool, budget, reserve)
        self.kept = self._make_kept()
        self._ended: list[BusRun] = []
        # ``mlflow run`` and the like: the run was made by the process that started this one.
        self._handed_on = self._environ.get("MLFLOW_RUN_ID", "")

    def experiment(self, identifier: str) -> KnownExperiment:
        """The experiment of an id.

        Raises:
            MlflowException: The id says no name, and this process did not make it.
        """
        identifier = str(identifier)
        with self.lock:
            found = self.experiments.get(identifier)
            name = None if found else names.experiment_name(identifier)
            if name is not None:
                found = self.experiments[identifier] = KnownExperiment(name)
        if found is None:
            raise unknown(f"experiment {identifier!r}", "set MLFLOW_EXPERIMENT_NAME instead")
        return found

    def add_experiment(self, name: str) -> str:
        """Name an experiment; gives its id.

        Raises:
            MlflowException: A project of the bus cannot be called so.
        """
        try:
            identifier = names.experiment_id(name)
        except EventError as error:
            raise invalid(f"experiment name {name!r:.80}: {error.reason}") from error
        with self.lock:
            self.experiments.setdefault(identifier, KnownExperiment(name))
        return identifier

    def run(self, run_id: str) -> KnownRun:
        """The run of an id.

        Raises:
            MlflowException: This process does not write to it.
        """
        found = self.runs.get(run_id)
        if found is None and run_id == self._handed_on:
            found = self._adopt(run_id)
        if found is None:
            raise unknown(
                f"run {run_id!r}",
                f"to go on with it start the process with MLFLOW_RUN_ID={run_id} and the "
                "experiment in MLFLOW_EXPERIMENT_NAME; to read it ask the tracking server that the "
                "mlflow worker writes to",
            )
        return found

    def model(self, model_id: str) -> KnownModel:
        """The model of an id.

        Raises:
            MlflowException: This process has not made it.
        """
        found = self.models.get(model_id)
        if found is None:
            raise unknown(f"model {model_id!r}")
        return found

    def start_run(
        self, facts: RunFacts, tags: Mapping[str, str], attempt: int | None = 1
    ) -> KnownRun:
        """Begin a run on the bus.

        Args:
            facts: Who it is; its id is chosen here where it is empty.
            tags: As MLflow gives them.
            attempt: Its number, where another process has begun it.

        Raises:
            MlflowException: The settings of the bus are wrong; the message names the variable.
        """
        if not facts.run_id:
            named = self._named_run_id(tags)
            facts.run_id = named or uuid.uuid4().hex
            # A job that is started again says so itself.
            attempt = None if named else attempt
        project = self._project(self.experiment(facts.experiment).name)
        outside = {key: text for key, text in tags.items() if key not in _FIELDS}
        start = partial(
            self._start,
            project=project,
            name=facts.name,
            run_id=facts.run_id,
            tags=outside,
            notes=tags.get(_NOTES_TAG, ""),
            parent=tags.get(PARENT_TAG) or None,
            # MLflow's runs are of one process each: what other ranks log are runs of their own.
            rank=0,
            world=1,
        )
        try:
            run = KnownRun(facts, lambda number: start(attempt=number), self._note_end, attempt)
        except ConfigError as error:
            raise invalid(f"the run cannot be published: {error}") from error
        run.remember_tags(tags)
        # The bus describes the process itself; what the caller says of it goes before.
        said = {key: text for key, text in outside.items() if key.startswith("mlflow.")}
        if said:
            run.publish(lambda bus: bus.tags(said))
        with self.lock:
            self.runs[facts.run_id] = run
        return run

    def wait(self, seconds: float) -> None:
        """Wait until all that has ended is stored, for at most so long."""
        deadline = time.monotonic() + seconds
        with self.lock:
            ended, self._ended = self._ended, []
        for bus in ended:
            bus.finish(timeout=max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """End with the process: wait for what is on its way, remove the copies."""
        self.wait(_WAIT_SECONDS)
        self.kept.close()

    def reset_after_fork(self) -> None:
        """Make the copy in a forked child usable: another thread may have held the locks."""
        self.lock = threading.RLock()
        self.files_lock = threading.RLock()
        self._ended = []
        self._handed_on = ""
        self.kept = self._make_kept()
        for run in self.runs.values():
            run.reset_after_fork()

    def _note_end(self, bus: BusRun) -> None:
        with self.lock:
            self._ended.append(bus)

    def _project(self, experiment: str) -> str:
        if experiment == names.DEFAULT_NAME:
            return self._environ.get("TRAINBUS_PROJECT") or experiment
        return experiment

    def _named_run_id(self, tags: Mapping[str, str]) -> str:
        """The run that the surroundings name, for the first run of the process; else nothing."""
        named = self._environ.get("TRAINBUS_RUN_ID", "")
        is_first = not self.runs and PARENT_TAG not in tags
        rank = self._environ.get("RANK") or self._environ.get("SLURM_PROCID") or "0"
        is_lead = rank == "0"
        return named if is_first and is_lead and names.is_run_id(named) else ""

    def _adopt(self, run_id: str) -> KnownRun:
        identifier = self._environ.get("MLFLOW_EXPERIMENT_ID", names.DEFAULT_ID)
        name = self._environ.get("MLFLOW_EXPERIMENT_NAME")
        if name:
            identifier = self.add_experiment(name)
        run_name = self._environ.get("TRAINBUS_RUN_NAME") or run_id
        facts = RunFacts(run_id, identifier, "", run_name, int(time.time() * 1000))
        with self.lock:
            return self.runs.get(run_id) or self.start_run(facts, {}, _ADOPTED_ATTEMPT)


_NOTES_TAG = "mlflow.note.content"
_FIELDS = frozenset({_NOTES_TAG, PARENT_TAG, "mlflow.runName"})
"""Tags that are fields of ``run_started``."""

_current: Ledger | None = None
_current_lock = threading.Lock()


def current() -> Ledger:
    """The memory of this process.

    Raises:
        MlflowException: A setting of the bus is wrong.
    """
    global _current
    with _current_lock:
        if _current is None:
            try:
                _current = Ledger(os.environ)
            except ConfigError as error:
                raise invalid(str(error)) from error
            atexit.register(_current.close)
            os.register_at_fork(after_in_child=_reset_after_fork)
        return _current


def _reset_after_fork() -> None:
    global _current_lock
    _current_lock = threading.Lock()
    if _current is not None:
        _current.reset_after_fork()


def _read_budget(environ: Mapping[str, str]) -> int:
    text = environ.get(_BUDGET_VARIABLE, "").strip()
    if not text:
        return DEFAULT_BUDGET_BYTES
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"{_BUDGET_VARIABLE} is a number of bytes, not {text!r}")
    return int(text)
