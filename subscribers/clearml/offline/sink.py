"""The clearml sink without a server: one importable session per run (:mod:`.layout`).

Every batch is on disk, synced, before it counts as written (:mod:`.session`). The marks are written
with the condition that they are those this worker read or wrote last: a worker that was overtaken
writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bus.config import Settings
from bus.errors import PermanentSinkError, RetryableSinkError, StoreError
from bus.events import Event
from bus.sinks import BatchLimits, Marks, RunRef, SinkContents
from subscribers.clearml.offline import session
from subscribers.clearml.offline.contents import count_points
from subscribers.clearml.offline.layout import Layout
from subscribers.clearml.plan import KINDS
from subscribers.clearml.points import expected_points

__all__ = ["FOLDER_VARIABLE", "OfflineSink"]

FOLDER_VARIABLE = "TRAINBUS_CLEARML_FOLDER"
"""Names the folder of all sessions; by default ``clearml`` in the data folder."""

_DESTINATIONS = ("CLEARML_DEFAULT_OUTPUT_URI", "CLEARML_FILES_HOST")
"""Where the importer uploads weights to, unless the run says; without one it notes their path."""

_THREADS = 4

_T = TypeVar("_T")


class OfflineSink:
    """A :class:`bus.sinks.Sink`. Files are written in its threads, never on the event loop.

    Args:
        root: The folder of all sessions; made when missing.
        destination: URL to which the importer uploads weights of runs that name none.
    """

    def __init__(self, root: Path, destination: str = "") -> None:
        self._root = root
        self._destination = destination
        self._generations: dict[tuple[str, str], int] = {}
        self._pool = ThreadPoolExecutor(_THREADS, "clearml-offline")

    @classmethod
    def from_environment(cls, settings: Settings, environ: Mapping[str, str]) -> OfflineSink:
        """The sink for ``TRAINBUS_CLEARML_FOLDER``."""
        folder = environ.get(FOLDER_VARIABLE)
        destination = next((environ[name] for name in _DESTINATIONS if environ.get(name)), "")
        root = Path(folder).expanduser().absolute() if folder else settings.home / "clearml"
        return cls(root, destination)

    @property
    def root(self) -> Path:
        """The folder of all sessions."""
        return self._root

    @property
    def name(self) -> str:
        """``clearml``."""
        return "clearml"

    @property
    def limits(self) -> BatchLimits:
        """Larger than the default: a call costs some syncs of the disk, whatever it writes."""
        return BatchLimits(events=1000, size_bytes=8 * 1024 * 1024)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that have a place in ClearML."""
        return frozenset(KINDS)

    def expected_points(self, event: Event) -> set[tuple[int, str, str]]:
        """See :func:`subscribers.clearml.points.expected_points`."""
        return expected_points(event)

    async def open_run(self, run: RunRef) -> Marks:
        """Read the marks of the run's session. The first write makes it."""
        state = await self._call(f"opening run {run.run!r}", session.read_state, self._layout(run))
        self._generations[_key_of(run)] = state.generation if state else 0
        return state.read_marks() if state else Marks()

    async def write(self, run: RunRef, events: Sequence[Event], marks: Marks) -> None:
        """Write events and marks; see :mod:`subscribers.clearml.offline.session` for the order."""
        if _key_of(run) not in self._generations:
            await self.open_run(run)
        self._generations[_key_of(run)] = await self._call(
            f"writing run {run.run!r}",
            session.write,
            self._layout(run),
            events,
            marks,
            self._generations[_key_of(run)],
        )

    async def close_run(self, run: RunRef) -> None:
        """Forget a run."""
        self._generations.pop(_key_of(run), None)

    async def contents(self, run: RunRef) -> SinkContents | None:
        """Count what the session holds."""
        return await self._call(f"reading run {run.run!r}", _contents, self._layout(run))

    async def close(self) -> None:
        """Release the threads. A write in hand ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _layout(self, run: RunRef) -> Layout:
        return Layout(self._root, run, self._destination)

    async def _call(self, doing: str, function: Callable[..., _T], *arguments: object) -> _T:
        def work() -> _T:
            try:
                return function(*arguments)
            except StoreError as error:
                kind = PermanentSinkError if _is_gone(error) else RetryableSinkError
                raise kind(f"{doing}: {error}") from error
            except OSError as error:
                # A full or read-only disk is for a person to set right.
                raise RetryableSinkError(f"{doing} in {self._root}: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _contents(layout: Layout) -> SinkContents | None:
    state = session.read_state(layout)
    if state is None:
        return None
    points = count_points(layout.folder / session.METRICS, state.metrics_bytes)
    shown = layout.archive if layout.archive.exists() else layout.folder
    return SinkContents(state.read_marks(), points, shown.as_uri())


def _is_gone(error: StoreError) -> bool:
    return error.is_missing or error.is_damaged


def _key_of(run: RunRef) -> tuple[str, str]:
    return (run.project, run.run)
