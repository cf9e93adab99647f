"""Files of events in the session: pictures, artifacts, weights. Every function blocks."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from functools import partial
from pathlib import Path, PurePosixPath
from typing import cast

from msgspec import structs

from bus.artifacts import fetch
from bus.errors import PermanentSinkError
from bus.events import Event
from bus.kinds import Artifact, Blob, Checkpoint, Model
from subscribers.clearml.media import blob_of, picture_size, readable_url
from subscribers.clearml.names import suffix_of
from subscribers.clearml.offline.files import make_folder, replace_with
from subscribers.clearml.offline.layout import Layout
from subscribers.clearml.offline.state import ArtifactEntry, ModelEntry
from subscribers.clearml.options import RunOptions
from subscribers.clearml.plan import OutputModel, Picture

__all__ = ["keep_artifact", "keep_model", "keep_picture"]

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Of files in a zip: the same folder gives the same bytes."""

_CHUNK_BYTES = 1024 * 1024


def keep_picture(layout: Layout, picture: Picture) -> tuple[str, tuple[int, int] | None]:
    """Copy a picture into the session.

    Returns:
        Its path below ``data``, and its width and height; None for what is no picture.

    Raises:
        PermanentSinkError: It is a folder.
    """
    blob = blob_of(picture.event)
    if blob.is_folder:
        raise PermanentSinkError(f"{blob.name!r} is a folder: a picture is one file")
    path = layout.picture_path(picture.metric, picture.variant, picture.iteration, blob.name)
    file = layout.folder / "data" / path
    _copy(layout, picture.event, file)
    return path, picture_size(file, blob.name)


def keep_artifact(layout: Layout, event: Event) -> tuple[str, ArtifactEntry]:
    """Copy an artifact into the session; a folder as a zip.

    Returns:
        The name under which the task lists it, and where it is.
    """
    data = cast("Artifact", event.data)
    is_folder = data.blob.is_folder
    path = layout.artifact_path(data.path, ".zip" if is_folder else "")
    file = layout.folder / "data" / path
    _copy(layout, event, file)
    sha256 = _digest(file) if is_folder else data.blob.sha256
    size = file.stat().st_size
    return data.path, ArtifactEntry(f"data/{path}", size, sha256, int(event.time), is_folder)


def keep_model(layout: Layout, model: OutputModel, options: RunOptions) -> ModelEntry | None:
    """Copy weights into the session, or note where they are.

    Returns:
        None for a checkpoint that is not to become a model.
    """
    if not model.is_kept and not options.all_checkpoints:
        return None
    event = model.event
    data = cast("Checkpoint | Model", event.data)
    entry = ModelEntry(
        model.name,
        iteration=model.iteration,
        metadata=model.metadata,
        # The importer goes by the suffix, and takes every zip for TensorFlow's.
        framework=_framework_of(data) if data.blob.is_folder else None,
        is_package=data.blob.is_folder,
    )
    url = readable_url(event) if options.store_urls else None
    if url is not None:
        return structs.replace(entry, url=url)
    # One suffix: the task lists the model under what stands before it.
    suffix = (
        ".zip" if data.blob.is_folder else PurePosixPath(f"x{suffix_of(data.blob.name)}").suffix
    )
    file = layout.model_path(model.role, suffix)
    _copy(layout, event, layout.folder / file)
    return structs.replace(entry, file=file)


def _framework_of(data: Checkpoint | Model) -> str:
    return (data.flavor if isinstance(data, Model) else "") or "folder"


def _copy(layout: Layout, event: Event, file: Path) -> None:
    """Fetch the blob of an event to a file; a folder as a zip."""
    blob = blob_of(event)
    dataref = event.dataref
    assert dataref is not None
    make_folder(file.parent, layout.root)
    if not blob.is_folder:
        replace_with(file, partial(_fetch, dataref, blob))
        return
    # Beside the session, on its disk. A kill may have left one.
    tree = layout.scratch
    shutil.rmtree(tree, ignore_errors=True)
    try:
        fetch(dataref, blob, tree)
        replace_with(file, partial(_zip, tree))
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _fetch(dataref: str, blob: Blob, target: Path) -> None:
    fetch(dataref, blob, target)


def _zip(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            if not path.is_file():
                continue
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _ZIP_TIME)
            info.file_size = path.stat().st_size
            with path.open("rb") as source, archive.open(info, "w") as packed:
                shutil.copyfileobj(source, packed, _CHUNK_BYTES)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
