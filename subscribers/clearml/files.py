"""Blobs of events on the file server. Every function blocks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from fsspec.core import url_to_fs

from bus.artifacts import fetch
from bus.errors import PermanentSinkError, RetryableSinkError
from bus.events import Event
from subscribers.clearml.api import Api
from subscribers.clearml.events import event_of_picture
from subscribers.clearml.media import blob_of, picture_size
from subscribers.clearml.names import level, suffix_of
from subscribers.clearml.plan import Picture
from subscribers.clearml.tasks import TaskState

__all__ = ["fetched", "picture_line", "put"]


@contextmanager
def fetched(event: Event) -> Iterator[Path]:
    """The blob of an event as one file, removed afterwards; a folder as a zip.

    Raises:
        StoreError: The store does not have it, or the disk is full.
    """
    blob = blob_of(event)
    assert event.dataref is not None
    with tempfile.TemporaryDirectory(prefix="trainbus-") as folder:
        path = fetch(event.dataref, blob, Path(folder) / level(blob.name))
        if not path.is_dir():
            yield path
            return
        packed = shutil.make_archive(f"{folder}/packed", "zip", root_dir=path)
        shutil.rmtree(path)
        yield Path(packed)


def picture_line(api: Api, state: TaskState, picture: Picture) -> bytes:
    """Upload a picture and give the event that shows it.

    The path says title, series and iteration, and no more: sent again, it is the same file and the
    same event.

    Raises:
        PermanentSinkError: It is a folder.
    """
    if blob_of(picture.event).is_folder:
        raise PermanentSinkError(f"{picture.variant!r} is a folder: a picture is one file")
    title, series = level(picture.metric), level(picture.variant)
    kind = "plots" if picture.is_plot else "metrics"
    suffix = suffix_of(blob_of(picture.event).name)
    name = f"{title}_{series}_{picture.iteration:08d}{suffix}"
    path = f"{state.folder}/{kind}/{title}/{series}/{name}"
    with fetched(picture.event) as file:
        size = picture_size(file, blob_of(picture.event).name)
        url = api.upload(file, path)
    return event_of_picture(state.task, picture, path, url, size)


def put(api: Api, file: Path, path: str, destination: str = "") -> str:
    """Keep a file under a path, and give its URL.

    Args:
        api: The connection.
        file: What to keep.
        path: Relative, in plain ASCII.
        destination: Where a run wants its models: the URL of an http(s) file server, or of a folder
            in a bucket or file system; empty for the file server of the configuration.

    Raises:
        RetryableSinkError: The destination does not take it now.
        PermanentSinkError: The destination makes no sense.
    """
    scheme = urlsplit(destination).scheme
    if not destination or scheme in {"http", "https"}:
        return api.upload(file, path, destination)
    url = f"{destination.rstrip('/')}/{path}"
    try:
        files, target = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise PermanentSinkError(f"output destination {destination!r}: {error}") from error
    try:
        files.makedirs(target.rpartition("/")[0], exist_ok=True)
        files.put_file(str(file), target)
    except Exception as error:  # every file system has errors of its own
        reason = f"{type(error).__name__}: {error}"
        raise RetryableSinkError(f"output destination {destination!r}: {reason}") from error
    return url if scheme else Path(target).as_uri()
