"""The session of one run on disk: opened, written, and packed when the run has ended.

A write is done in this order, so that a kill at any line leaves what can be written again without a
double:

1. the lock of the session, so that one worker writes at a time;
2. ``trainbus.json`` is read: what a write that was cut short left beyond it is cut off;
3. files below ``data`` and ``models``, each under another name, synced, renamed;
4. ``metrics.jsonl`` and ``log.jsonl`` are appended to and synced;
5. ``task.json`` is replaced;
6. if the run has ended, the zip is replaced;
7. ``trainbus.json`` is replaced: the marks, and how much of 4. is theirs.

Until 7. the write has not happened: it is done again, to the same paths and from the same bytes on.
Every function blocks.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bus.errors import MarksMovedError, RetryableSinkError
from bus.events import Event
from bus.sinks import Marks
from subscribers.clearml.offline import blobs
from subscribers.clearml.offline.files import (
    append_lines,
    make_folder,
    replace_file,
    replace_with,
)
from subscribers.clearml.offline.layout import PART, Layout
from subscribers.clearml.offline.lines import console_events, joined, picture_event, point_events
from subscribers.clearml.offline.state import STATE_VERSION, SessionState, StateHeader, task_json
from subscribers.clearml.plan import Plan, plan
from subscribers.clearml.points import NonFiniteNotes

__all__ = ["LOG", "METRICS", "STATE", "TASK", "read_state", "write"]

METRICS = "metrics.jsonl"
LOG = "log.jsonl"
TASK = "task.json"
STATE = "trainbus.json"
LOCK = "trainbus.lock"

_log = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(SessionState)
_header_decoder = msgspec.json.Decoder(StateHeader)


def read_state(layout: Layout) -> SessionState | None:
    """The state of a session; None when there is none.

    A session that somebody damaged begins anew: its marks are forgotten, so that all its events
    are written once more.

    Raises:
        RetryableSinkError: A newer version of trainbus wrote it.
    """
    path = layout.folder / STATE
    try:
        raw = path.read_bytes()
        version = _header_decoder.decode(raw).version
        if version > STATE_VERSION:
            raise RetryableSinkError(
                f"{path} is of version {version}, this trainbus knows {STATE_VERSION}: update it"
            )
        state = _decoder.decode(raw)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.warning("%s is damaged (%s): the run is written anew", path, error)
        return SessionState(STATE_VERSION)
    for name, expected in ((METRICS, state.metrics_bytes), (LOG, state.log_bytes)):
        if not _is_whole(layout.folder / name, expected):
            _log.warning("%s has lost its end: the run is written anew", layout.folder / name)
            return SessionState(STATE_VERSION, generation=state.generation)
    return state


def write(layout: Layout, events: Sequence[Event], marks: Marks, known: int) -> int:
    """Write a batch and its marks; see the top of this module.

    Args:
        layout: Of the run.
        events: The batch.
        marks: With the batch in them.
        known: The generation whose marks the worker has; 0 for a session that was not there.

    Returns:
        The generation of the session from now on.

    Raises:
        MarksMovedError: The session is of another generation. Nothing was written.
        RetryableSinkError: Another worker is writing to it.
        StoreError: A file cannot be fetched.
        OSError: The disk is full, or cannot be written.
    """
    planned = plan(events)
    layout.root.mkdir(parents=True, exist_ok=True)
    make_folder(layout.folder, layout.root)
    with _locked(layout):
        state = read_state(layout)
        if (state.generation if state else 0) != known:
            raise MarksMovedError(f"another worker has written to {layout.folder}")
        state = state or SessionState(STATE_VERSION)
        _write_files(layout, planned, state)
        _write_lines(layout, planned, state)
        state.apply(planned, marks)
        _commit(layout, state)
    return state.generation


def _write_files(layout: Layout, planned: Plan, state: SessionState) -> None:
    """Step 3."""
    for model in planned.models:
        entry = blobs.keep_model(layout, model, planned.options or state.run_options)
        if entry is not None:
            state.models[model.role] = entry
    for event in planned.artifacts:
        key, artifact = blobs.keep_artifact(layout, event)
        state.artifacts[key] = artifact


def _write_lines(layout: Layout, planned: Plan, state: SessionState) -> None:
    """Step 4, and the files of pictures before the events that name them."""
    pictures = []
    for picture in planned.pictures:
        path, size = blobs.keep_picture(layout, picture)
        pictures.append(picture_event(layout, picture, path, size))
    notes = NonFiniteNotes(state.nonfinite)

    def lines() -> Iterator[bytes]:
        yield from joined(point_events(layout.id, planned.points, notes))
        yield from joined(pictures)

    state.metrics_bytes = append_lines(layout.folder / METRICS, state.metrics_bytes, lines())
    state.nonfinite = notes.text
    # The importer would send a line twice that stands there twice. Of a replay by force it has all.
    known = state.read_marks()
    console = [event for event in planned.console if not _is_written(event, known)]
    lines_of_log = joined(console_events(layout.id, console))
    state.log_bytes = append_lines(layout.folder / LOG, state.log_bytes, lines_of_log)


def _is_written(event: Event, marks: Marks) -> bool:
    is_applied = marks.is_applied(event.source, event.id)
    return is_applied and not marks.is_dead(event.source, event.id)


def _commit(layout: Layout, state: SessionState) -> None:
    """Steps 5 to 7."""
    text = json.dumps(task_json(state, layout), allow_nan=False, indent=1)
    replace_file(layout.folder / TASK, text.encode("ascii"))
    if state.outcome is not None:
        replace_with(layout.archive, lambda part: _pack(layout.folder, part))
    state.generation += 1
    replace_file(layout.folder / STATE, msgspec.json.encode(state))


def _pack(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", strict_timestamps=False) as archive:
        for path in _files_of(folder):
            # Weights and pictures are packed already.
            is_text = path.suffix in {".json", ".jsonl"}
            how = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
            archive.write(path, path.relative_to(folder).as_posix(), how)


def _files_of(folder: Path) -> Iterable[Path]:
    own = {folder / STATE, folder / LOCK}
    return (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in own and not path.name.endswith(PART)
    )


def _is_whole(path: Path, expected: int) -> bool:
    """Whether a file of lines still has all that belongs to the session."""
    if expected == 0:
        return True
    try:
        with path.open("rb") as file:
            file.seek(expected - 1)
            return file.read(1) == b"\n"
    except FileNotFoundError:
        return False


@contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    """One writer at a time; the system frees the lock of a process that was killed."""
    handle = os.open(layout.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RetryableSinkError(f"another worker is writing to {layout.folder}") from error
        yield
    finally:
        os.close(handle)
