"""Writes a run into a session again and again, killed at one line after another.

``offlinekills.py FOLDER EVERY``: for each EVERY-th line of ours that is executed, a process is
forked that writes the run and is killed (SIGKILL) at that line, and then another that goes on from
the marks. The session must then be, byte for byte, the one of a process that was never killed.
Prints the number of kills.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from bus.events import Event
from bus.sinks import Marks
from subscribers.clearml.offline import session
from subscribers.clearml.offline.layout import Layout
from tests.fixtures.clearml.sessions import whole_run
from tests.fixtures.feed import Feed

_OURS = str(Path(session.__file__).parent)
_BATCH = 4


def kill_at(number: int) -> Callable[..., Any]:
    """A trace function that kills the process at the N-th line of ours."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal left
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def write(layout: Layout, events: Sequence[Event]) -> None:
    """What a worker does: read the marks, write what is not in them, batch by batch."""
    state = session.read_state(layout)
    marks, known = (state.read_marks(), state.generation) if state else (Marks(), 0)
    for start in range(0, len(events), _BATCH):
        batch = [
            event
            for event in events[start : start + _BATCH]
            if not marks.is_applied(event.source, event.id)
        ]
        for event in batch:
            marks.add_applied(event.source, event.id)
        if batch:
            known = session.write(layout, batch, marks, known)


def in_child(work: Callable[[], None]) -> bool:
    """Run it in a process of its own; False when that was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) == 0, "a write failed"
    return True


def killed_at(number: int, layout: Layout, events: Sequence[Event]) -> None:
    """Write, and be killed at the N-th line of ours."""
    sys.settrace(kill_at(number))
    write(layout, events)


def content(layout: Layout) -> dict[str, bytes]:
    """All files of a session and in its zip, but for where the session is."""
    here = str(layout.root).encode()
    found = {
        str(path.relative_to(layout.root)): path.read_bytes().replace(here, b"")
        for path in layout.folder.rglob("*")
        if path.is_file()
    }
    with zipfile.ZipFile(layout.archive) as archive:
        for name in archive.namelist():
            found[f"zip/{name}"] = archive.read(name).replace(here, b"")
    return found


def main() -> None:
    # A kill loses nothing of the page cache; to wait for the disk would only take time.
    os.fsync = lambda fd: None
    folder, every = Path(sys.argv[1]), int(sys.argv[2])
    feed = Feed("run 1", "project")
    events = whole_run(feed, folder)
    untouched = Layout(folder / "untouched", feed.ref)
    write(untouched, events)
    expected = content(untouched)
    number = 1
    while True:
        root = folder / "killed"
        layout = Layout(root, feed.ref)

        if in_child(partial(killed_at, number, layout, events)):
            break
        assert in_child(partial(write, layout, events))
        actual = content(layout)
        for name in sorted({*actual, *expected}):
            assert actual.get(name) == expected.get(name), f"killed at line {number}: {name}"
        shutil.rmtree(root)
        number += every
    print(number // every)


if __name__ == "__main__":
    main()
