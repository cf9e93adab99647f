"""Begins the run of a training, or goes on with the one that it resumes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from publishers.integrations.ultralytics.record import RunRecord, find_record, split_params
from publishers.run import Run
from publishers.start import start_run
from publishers.values import plain

__all__ = ["Begun", "begin_run"]


class Begun(NamedTuple):
    """A run that has begun.

    Attributes:
        is_resumed: It is a later attempt of a run that was there.
    """

    run: Run
    is_resumed: bool


def begin_run(
    options: Mapping[str, Any], params: Mapping[str, Any], folder: Path, resumed: object
) -> Begun:
    """Begin a run and note it beside the weights.

    Args:
        options: For ``start_run``.
        params: Of the training, in the section "General".
        folder: Of the training; it holds the weights' folder.
        resumed: See :func:`publishers.integrations.ultralytics.record.find_record`.

    Raises:
        ConfigError: The run cannot be started.
    """
    given = dict(options)
    record = find_record(resumed, folder)
    run_id = given.get("run_id") or os.environ.get("TRAINBUS_RUN_ID")
    if record is not None and run_id and run_id != record.run:
        # Somebody wants it to be another run.
        record = None
    if record is None:
        run = start_run(**given, params=params)
        _keep(RunRecord(run.id, run.project, run.name, 1, plain(params)), folder)
        return Begun(run, is_resumed=False)
    attempt = record.attempt + 1
    given |= {"run_id": record.run, "project": record.project, "name": record.name}
    same, changed = split_params(params, record)
    run = start_run(**{**given, "attempt": attempt}, params=same)
    if changed:
        run.params(changed, section=f"Resume {attempt}")
    _keep(RunRecord(run.id, run.project, run.name, attempt, record.params), folder)
    return Begun(run, is_resumed=True)


def _keep(record: RunRecord, folder: Path) -> None:
    try:
        record.write(folder)
    except OSError:
        # A folder that cannot be written has no weights to resume from either.
        return
