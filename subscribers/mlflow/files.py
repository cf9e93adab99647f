"""Blobs and texts as artifacts of a run. Every function blocks and takes the client first."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from mlflow.tracking import MlflowClient

from bus.artifacts import fetch
from bus.events import Event
from bus.kinds import Artifact, Checkpoint, Image, Model, Plot
from subscribers.mlflow.names import level
from subscribers.mlflow.plan import TextFile, Upload

__all__ = ["fetched", "log_blob", "log_text"]

_NAMES_FILE = "trainbus-names.json"


@contextmanager
def fetched(event: Event, name: str) -> Iterator[Path]:
    """The blob of an event as a file or folder of that name, removed afterwards.

    Raises:
        StoreError: The store does not have it, or the disk is full.
    """
    data = cast("Artifact | Checkpoint | Image | Model | Plot", event.data)
    assert event.dataref is not None
    with tempfile.TemporaryDirectory(prefix="trainbus-") as folder:
        yield fetch(event.dataref, data.blob, Path(folder) / name)


def log_blob(client: MlflowClient, run_id: str, upload: Upload) -> None:
    """Upload the file or folder of an event under its path. Doing it again changes nothing."""
    folder, _, name = upload.path.rpartition("/")
    with fetched(upload.event, name) as path:
        if not path.is_dir():
            client.log_artifact(run_id, str(path), folder or None)
            return
        changed = make_names_safe(path)
        if changed:
            text = json.dumps(changed, ensure_ascii=False, indent=2)
            (path / _NAMES_FILE).write_text(text, encoding="utf-8")
        client.log_artifacts(run_id, str(path), upload.path)


def log_text(client: MlflowClient, run_id: str, file: TextFile) -> None:
    """Upload a text under its path."""
    client.log_text(run_id, file.text, file.path)


def make_names_safe(root: Path) -> dict[str, str]:
    """Rename what lies in a folder so that MLflow takes it.

    Names with ``#``, ``?`` or ``%`` would be cut or decoded on their way, one file over another.

    Returns:
        The new relative path of every renamed file or folder, with its original path.
    """
    changed: dict[str, str] = {}
    # The deepest first, so that a path stays valid until its own turn.
    for path in sorted(root.rglob("*"), key=lambda item: len(item.parts), reverse=True):
        safe = level(path.name)
        if safe != path.name:
            original = path.relative_to(root).as_posix()
            changed[path.rename(path.with_name(safe)).relative_to(root).as_posix()] = original
    return dict(sorted(changed.items()))
