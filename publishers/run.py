"""A training run, as the training code sees it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from bus.errors import EventError
from bus.source import Source
from publishers import exits, media
from publishers.drops import Drops
from publishers.ending import Ending
from publishers.environment import Place
from publishers.journal.rows import MetricRows
from publishers.launch import ShipperWatch
from publishers.recorder import Recorder
from publishers.snapshot import name_of, safe_name
from publishers.stopping import StopSign
from publishers.values import plain, whole_number, wire_number

__all__ = ["Run"]


class Run:
    """One training run; :func:`publishers.start_run` makes it.

    Methods may be called from any thread. None of them raises because of the bus, the disk or an
    odd value: what cannot be taken is counted in :attr:`dropped` and warned about once. In a
    forked child the run is inert.
    """

    def __init__(
        self,
        place: Place,
        source: Source,
        *,
        rows: MetricRows,
        recorder: Recorder,
        drops: Drops,
        ending: Ending,
        watch: ShipperWatch | None,
        stop_sign: StopSign,
    ) -> None:
        self._place = place
        self._source = source
        self._rows = rows
        self._recorder = recorder
        self._drops = drops
        self._ending = ending
        self._watch = watch
        self._stop_sign = stop_sign

    @property
    def id(self) -> str:
        """The run's id, the same for all its processes."""
        return self._place.run

    @property
    def project(self) -> str:
        """The project the run belongs to."""
        return self._place.project

    @property
    def name(self) -> str:
        """The name people read."""
        return self._place.name

    @property
    def rank(self) -> int:
        """Rank of this process in the run, from 0."""
        return self._place.rank

    @property
    def source(self) -> str:
        """The CloudEvents source of what this process publishes."""
        return str(self._source)

    @property
    def dropped(self) -> dict[str, int]:
        """How much never reached the bus, by cause (``bad_value``, ``disk_full``, …)."""
        return self._drops.counts()

    @property
    def should_stop(self) -> bool:
        """Whether the run was asked to stop: by ``trainbus stop``, or by a tracker.

        To be asked as often as you like: it looks at the disk twice a second at the most. Once
        true it stays true. What follows from it is up to the training::

            for batch in batches:
                if run.should_stop:
                    break
        """
        return self._stop_sign.notice is not None

    @property
    def stop_reason(self) -> str | None:
        """Why the run is to stop, or who asks where no reason was given; None until it is."""
        notice = self._stop_sign.notice
        return None if notice is None else notice.text

    def log(
        self,
        metrics: Mapping[str, Any],
        step: int | None = None,
        *,
        rank_prefix: bool = True,
        at: float | None = None,
    ) -> None:
        """Log metric values of one step: one line in the journal, a few microseconds.

        Args:
            metrics: Values by name: floats, ints, bools, scalars of numpy, 0-d tensors.
            step: Whole number; by default the previous step + 1, from 0.
            rank_prefix: Write ``rank{n}/name`` on ranks other than 0.
            at: When the values were taken, in Unix seconds; by default now.

        Raises:
            EventError: A value cannot be taken, and the run was started with ``strict=True``.
        """
        self._rows.log(metrics, step, rank_prefix=rank_prefix, at=at)

    def params(self, params: Mapping[str, Any], section: str = "General") -> None:
        """Log parameters: any values; what JSON has no form for becomes its text.

        Args:
            params: Values by name; also an object with attributes, as ``argparse`` makes.
            section: Groups them in trackers that show groups.
        """

        def write() -> None:
            values = self._recorder.take("params", _attributes(params), plain)
            folder = f"params/{safe_name(section)}"
            self._recorder.record_values(
                "params", values, lambda part: {"section": section, "params": part}, folder
            )

        self._recorder.attempt("params", write)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Log single values of the whole run; of each name the last one counts."""

        def write() -> None:
            taken = self._recorder.take("summary", values, wire_number)
            self._recorder.record_values("summary", taken, lambda part: {"values": part}, "summary")

        self._recorder.attempt("summary", write)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; of each name the last one counts."""

        def write() -> None:
            taken = self._recorder.take("tags", tags, lambda value: str(plain(value)))
            self._recorder.record_values("tags", taken, lambda part: {"set": part}, "tags")

        self._recorder.attempt("tags", write)

    def image(self, title: str, series: str, image: Any, step: int | None = None) -> None:
        """Log a picture as it is now.

        Args:
            title: What it shows, such as ``val``.
            series: Which one of them, such as ``batch0``.
            image: A path, encoded bytes, a PIL image, a matplotlib figure, or an array of
                height x width x (1, 3 or 4): floats from 0 to 1, or whole numbers from 0 to 255.
            step: Whole number, if it belongs to one.
        """
        self._log_media("image", title, series, image, step, media.picture)

    def plot(self, title: str, series: str, figure: Any, step: int | None = None) -> None:
        """Log a plot as it is now: a figure of matplotlib or plotly, a path, or bytes.

        Args:
            title: What it shows.
            series: Which one of them.
            figure: See above.
            step: Whole number, if it belongs to one.
        """
        self._log_media("plot", title, series, figure, step, media.plot)

    def artifact(
        self, path: str | os.PathLike[str], name: str | None = None, *, is_frozen: bool = False
    ) -> None:
        """Log a file or folder as it is now.

        Args:
            path: Where it is.
            name: Its path among the run's artifacts, ``/`` between levels; by default its name.
            is_frozen: It never changes again, so that it may be linked instead of copied.
        """

        def write() -> None:
            where = _artifact_path(name) if name else name_of(path)
            file = where.rpartition("/")[2]
            self._record_file("artifact", {"path": where}, path, file, is_frozen=is_frozen)

        self._recorder.attempt(f"artifact {path}", write)

    def checkpoint(
        self,
        path: str | os.PathLike[str],
        epoch: int | None = None,
        fitness: float | None = None,
        best: bool = False,
        final: bool = False,
    ) -> None:
        """Log the weights in a file or folder as they are now.

        Args:
            path: Where they are.
            epoch: After which epoch.
            fitness: How good they are; higher is better.
            best: They are the best so far.
            final: Training ends with them.
        """

        def write() -> None:
            data: dict[str, Any] = {"best": bool(best), "final": bool(final)}
            if epoch is not None:
                data["epoch"] = _checked(whole_number, "epoch", epoch)
            if fitness is not None:
                data["fitness"] = _checked(wire_number, "fitness", fitness)
            self._record_file("checkpoint", data, path)

        self._recorder.attempt(f"checkpoint {path}", write)

    def model(
        self,
        path: str | os.PathLike[str],
        name: str,
        flavor: str = "",
        signature: Any = None,
        metrics: Mapping[str, Any] | None = None,
        registered_name: str | None = None,
        *,
        key: str = "",
        options: Mapping[str, Mapping[str, Any]] | None = None,
        is_frozen: bool = False,
    ) -> None:
        """Log a finished model as it is now.

        Args:
            path: An MLmodel folder (as ``mlflow.<flavor>.save_model`` writes), or one file.
            name: Of the model.
            flavor: Its format; by default ``mlflow`` for an MLmodel folder.
            signature: Inputs and outputs, as a dict or an object with ``to_dict()``.
            metrics: How good it is, by name.
            registered_name: Make a version under this name in the tracker's registry.
            key: Names the model among the run's: what is logged under the same key again is the
                same model, to be registered, say, and not another one.
            options: Per sink, what only that sink understands.
            is_frozen: It never changes again, so that it may be linked instead of copied.
        """

        def write() -> None:
            data: dict[str, Any] = {"name": name, "flavor": flavor}
            if not flavor and (Path(path) / "MLmodel").is_file():
                data["flavor"] = "mlflow"
            if signature is not None:
                as_dict = getattr(signature, "to_dict", None)
                data["signature"] = plain(as_dict() if callable(as_dict) else signature)
            if metrics:
                data["metrics"] = self._recorder.take("metrics", metrics, wire_number)
            if registered_name is not None:
                data["registered_name"] = registered_name
            if key:
                data["key"] = key
            if options:
                data["options"] = plain(options)
            self._record_file("model", data, path, is_frozen=is_frozen)

        self._recorder.attempt(f"model {name}", write)

    def phase(self, phase: str, state: str, args: Mapping[str, Any] | None = None) -> None:
        """Say that a phase began or ended.

        Args:
            phase: ``train``, ``val``, ``predict`` or ``export``.
            state: ``started`` or ``ended``.
            args: What it was started with.
        """

        def write() -> None:
            taken = self._recorder.take("args", args or {}, plain)
            self._recorder.record("phase", {"phase": phase, "state": state, "args": taken})

        self._recorder.attempt(f"phase {phase}", write)

    def finish(self, status: str = "completed", error: str = "", timeout: float = 10.0) -> bool:
        """End this process's part of the run, and wait until all of it is stored.

        Args:
            status: ``completed``, ``failed`` or ``killed``.
            error: What failed, in words.
            timeout: Seconds to wait at the most. What is not stored by then is delivered by the
                shipper, which goes on by itself.

        Returns:
            Whether the event log has confirmed everything.
        """
        self._ending.end(status, error)
        return self._ending.wait(timeout)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish(exits.status_of_exception(error), exits.describe_exception(error))

    def start(self, started: dict[str, Any], params: Mapping[str, Any] | None) -> None:
        """Write the first records and see to the shipper; ``start_run`` does this.

        Args:
            started: Data of ``run_started``.
            params: The first parameters; None for none.
        """
        self._recorder.attempt("run_started", lambda: self._recorder.record_start(started))
        if params is not None:
            self.params(params)
        exits.watch_over(self._ending)
        if self._watch is not None:
            self._watch.start(is_lead=self._place.is_lead)

    def _record_file(
        self,
        kind: str,
        data: dict[str, Any],
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        is_frozen: bool = False,
    ) -> None:
        self._recorder.record_file(
            kind, data, lambda copies: copies.copy(path, name, is_frozen=is_frozen)
        )

    def _log_media(
        self,
        kind: str,
        title: str,
        series: str,
        value: Any,
        step: int | None,
        make: Callable[[object], media.MediaFile],
    ) -> None:
        def write() -> None:
            data: dict[str, Any] = {"title": title, "series": series}
            if step is not None:
                data["step"] = _checked(whole_number, "step", step)
            file = make(value)
            content = file.content
            if isinstance(content, Path):
                self._record_file(kind, data, content)
            else:
                name = safe_name(str(series)) + file.suffix
                self._recorder.record_file(kind, data, lambda copies: copies.write(name, content))

        self._recorder.attempt(f"{kind} {title}/{series}", write)


def _checked(convert: Callable[[object], Any], field: str, value: object) -> Any:
    try:
        return convert(value)
    except ValueError as error:
        raise EventError(field, str(error)) from error


def _attributes(value: object) -> object:
    """What ``argparse`` and its like hold, as a dict; anything else as it is."""
    return vars(value) if hasattr(value, "__dict__") and not isinstance(value, Mapping) else value


def _artifact_path(name: str) -> str:
    parts = [part for part in str(name).split("/") if part not in {"", "."}]
    if not parts or ".." in parts:
        raise EventError("name", f"{name!r} is no path below the run's artifacts")
    return "/".join(parts)
