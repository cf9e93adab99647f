"""The folder of a run, and where things lie in it.

The format is that of clearml 2.1's offline mode, as ``Task.import_offline_session`` reads it; it
has no specification, so this is one::

    {root}/offline-{id}/
        task.json          the task: fields of ``tasks.edit``, and:
                           id, project_name, name       of the session and the task to create
                           offline_folder               begins the URI of an artifact; here empty
                           offline_output_models        what to make OutputModels of
        metrics.jsonl      a JSON array of events a line; each line becomes one events.add_batch
        log.jsonl          likewise, console lines
        data/{project}/{name}.offline-{id}/…            files that events and artifacts name
        models/…           weights, named by their absolute path
    {root}/offline-{id}.zip                             the same folder, once the run has ended

Three more files are of trainbus, and not in the zip: ``trainbus.json`` (:mod:`.state`),
``trainbus.lock``, and ``*~part`` while a file is written.

What the importer asks for, and is easily missed:

- It reads texts in the locale of whoever imports: only ASCII is safe in ``.json`` and ``.jsonl``.
- The path of a file has ``.offline-{id}/`` in it, which becomes that of the new task. For a
  picture in a plot the path up to there has exactly two levels.
- URLs are made of such a path without quoting: it has only characters that need none.
- The name under which a task lists a model is the stem of ``target_filename``.
- Without ``session_api_version`` the task is edited as the server of today wants it.

``{id}`` is made of project and run, so that a run that is written again is the same folder.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from bus.sinks import RunRef
from subscribers.clearml.names import suffix_of

__all__ = ["PART", "Layout", "plain"]

PART = "~part"
"""Ends the name of what is being written. :func:`plain` gives no name with a tilde."""

_MAX_LEVEL = 120
_BAD = re.compile(r"[^A-Za-z0-9_.\-]+")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one run.

    Attributes:
        root: The folder of all sessions.
        destination: URL to which the importer uploads weights, if the run names none.
    """

    root: Path
    run: RunRef
    destination: str = ""

    @property
    def id(self) -> str:
        """The id of the session, as clearml's own begin: ``offline-`` and 32 hex digits."""
        text = f"{self.run.project}\0{self.run.run}"
        return f"offline-{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    @property
    def folder(self) -> Path:
        """The session."""
        return self.root / self.id

    @property
    def archive(self) -> Path:
        """The session as one file."""
        return self.root / f"{self.id}.zip"

    @property
    def scratch(self) -> Path:
        """Where a folder is put together before it is packed."""
        return self.root / f"{self.id}{PART}"

    @property
    def task_path(self) -> str:
        """Begins the path of every file of the task below ``data``."""
        return f"{plain(self.run.project)}/{plain(self.run.run_name)}.{self.id}"

    def picture_path(self, metric: str, variant: str, iteration: int, name: str) -> str:
        """Where a picture lies below ``data``: the same for the same place in the tracker."""
        place = f"{plain(metric)}/{plain(variant)}/{iteration:08d}"
        return f"{self.task_path}/metrics/{place}{suffix_of(name)}"

    def artifact_path(self, path: str, suffix: str = "") -> str:
        """Where an artifact lies below ``data``: one level, so that "a" leaves room for "a/b"."""
        return f"{self.task_path}/artifacts/{plain(path, suffix_of(path))}{suffix}"

    def model_path(self, role: str, suffix: str) -> str:
        """Where weights lie in the session. The stem of the last level is the role."""
        return f"models/{plain(role)}/{plain(role)}{suffix}"


def plain(name: str, suffix: str = "") -> str:
    """One level of a path in characters that no URL quotes.

    No two names give the same one: what has to change gets ten hex digits of its sha256.

    Args:
        name: Any text.
        suffix: An end of it that is to stay at the end.
    """
    if name.strip(".") == name and 0 < len(name) <= _MAX_LEVEL and not _BAD.search(name):
        return name
    stem = _BAD.sub("-", name.removesuffix(suffix)).strip("-.")[: _MAX_LEVEL - 40] or "name"
    return f"{stem}-x{hashlib.sha256(name.encode()).hexdigest()[:10]}{suffix}"
