"""What a run records besides rows of metrics: values, files, phases."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from publishers import media
from publishers.arguments import artifact_path, attributes, checked
from publishers.environment import Place
from publishers.recorder import Recorder
from publishers.snapshot import name_of, safe_name
from publishers.values import plain, whole_number, wire_number

__all__ = ["Records"]


class Records:
    """The calls of a :class:`publishers.Run` that write a record each."""

    def __init__(self, place: Place, recorder: Recorder) -> None:
        self._place = place
        self._recorder = recorder

    def params(
        self,
        params: Mapping[str, Any],
        section: str = "General",
        *,
        rank_zero_only: bool = False,
    ) -> None:
        """Log parameters: any values; what JSON has no form for becomes its text.

        Args:
            params: Values by name; also an object with attributes, as ``argparse`` makes.
            section: Groups them in trackers that show groups.
            rank_zero_only: Other ranks write nothing.
        """

        def write() -> None:
            values = self._recorder.take("params", attributes(params), plain)
            folder = f"params/{safe_name(section)}"
            self._recorder.record_values(
                "params", values, lambda part: {"section": section, "params": part}, folder
            )

        self._attempt("params", write, rank_zero_only)

    def summary(
        self,
        values: Mapping[str, Any],
        step: int | None = None,
        *,
        rank_zero_only: bool = False,
        all_ranks: bool = False,
    ) -> None:
        """Log single values of the whole run; of each name the last one counts.

        Args:
            values: By name.
            step: For trackers that know single values only as points of a metric (MLflow); give
                one where a name is also that of a metric, lest the value hide that of step 0.
            rank_zero_only: Other ranks write nothing.
            all_ranks: All ranks write under the same names.
        """

        def write() -> None:
            prefix = self._prefix(all_ranks)
            more = {} if step is None else {"step": checked(whole_number, "step", step)}
            taken = self._recorder.take("summary", values, wire_number, prefix)
            self._recorder.record_values(
                "summary", taken, lambda part: {"values": part, **more}, "summary"
            )

        self._attempt("summary", write, rank_zero_only)

    def tags(self, tags: Mapping[str, str], *, rank_zero_only: bool = False) -> None:
        """Set tags; of each name the last one counts."""

        def write() -> None:
            taken = self._recorder.take("tags", tags, lambda value: str(plain(value)))
            self._recorder.record_values("tags", taken, lambda part: {"set": part}, "tags")

        self._attempt("tags", write, rank_zero_only)

    def image(
        self,
        title: str,
        series: str,
        image: Any,
        step: int | None = None,
        *,
        rank_zero_only: bool = False,
        all_ranks: bool = False,
    ) -> None:
        """Log a picture as it is now.

        Args:
            title: What it shows, such as ``val``.
            series: Which one of them, such as ``batch0``.
            image: A path, encoded bytes, a PIL image, a matplotlib figure, or an array of
                height x width x (1, 3 or 4): floats from 0 to 1, or whole numbers from 0 to 255.
            step: Whole number, if it belongs to one.
            rank_zero_only: Other ranks write nothing.
            all_ranks: Every rank writes under the same title, instead of ``rank{n}/title``.
        """
        title = f"{self._prefix(all_ranks)}{title}"
        write = self._media_writer("image", title, series, image, step, media.picture)
        self._attempt(f"image {title}/{series}", write, rank_zero_only)

    def plot(
        self,
        title: str,
        series: str,
        figure: Any,
        step: int | None = None,
        *,
        rank_zero_only: bool = False,
        all_ranks: bool = False,
    ) -> None:
        """Log a plot as it is now: a figure of matplotlib or plotly, a path, or bytes.

        Args:
            title: What it shows.
            series: Which one of them.
            figure: See above.
            step: Whole number, if it belongs to one.
            rank_zero_only: Other ranks write nothing.
            all_ranks: Every rank writes under the same title, instead of ``rank{n}/title``.
        """
        title = f"{self._prefix(all_ranks)}{title}"
        write = self._media_writer("plot", title, series, figure, step, media.plot)
        self._attempt(f"plot {title}/{series}", write, rank_zero_only)

    def artifact(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        is_frozen: bool = False,
        rank_zero_only: bool = False,
    ) -> None:
        """Log a file or folder as it is now.

        Args:
            path: Where it is.
            name: Its path among the run's artifacts, ``/`` between levels; by default its name.
            is_frozen: It never changes again, so that it may be linked instead of copied.
            rank_zero_only: Other ranks write nothing.
        """

        def write() -> None:
            where = artifact_path(name) if name else name_of(path)
            file = where.rpartition("/")[2]
            self._record_file("artifact", {"path": where}, path, file, is_frozen=is_frozen)

        self._attempt(f"artifact {path}", write, rank_zero_only)

    def checkpoint(
        self,
        path: str | os.PathLike[str],
        epoch: int | None = None,
        fitness: float | None = None,
        best: bool = False,
        final: bool = False,
        *,
        rank_zero_only: bool = False,
    ) -> None:
        """Log the weights in a file or folder as they are now.

        Args:
            path: Where they are.
            epoch: After which epoch.
            fitness: How good they are; higher is better.
            best: They are the best so far.
            final: Training ends with them.
            rank_zero_only: Other ranks write nothing.
        """

        def write() -> None:
            data: dict[str, Any] = {"best": bool(best), "final": bool(final)}
            if epoch is not None:
                data["epoch"] = checked(whole_number, "epoch", epoch)
            if fitness is not None:
                data["fitness"] = checked(wire_number, "fitness", fitness)
            self._record_file("checkpoint", data, path)

        self._attempt(f"checkpoint {path}", write, rank_zero_only)

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
        rank_zero_only: bool = False,
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
            rank_zero_only: Other ranks write nothing.
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

        self._attempt(f"model {name}", write, rank_zero_only)

    def phase(
        self,
        phase: str,
        state: str,
        args: Mapping[str, Any] | None = None,
        *,
        rank_zero_only: bool = False,
    ) -> None:
        """Say that a phase began or ended.

        Args:
            phase: ``train``, ``val``, ``predict`` or ``export``.
            state: ``started`` or ``ended``.
            args: What it was started with.
            rank_zero_only: Other ranks write nothing.
        """

        def write() -> None:
            taken = self._recorder.take("args", args or {}, plain)
            self._recorder.record("phase", {"phase": phase, "state": state, "args": taken})

        self._attempt(f"phase {phase}", write, rank_zero_only)

    def _attempt(self, what: str, write: Callable[[], object], rank_zero_only: bool) -> None:
        if not (rank_zero_only and self._place.rank):
            self._recorder.attempt(what, write)

    def _prefix(self, all_ranks: bool) -> str:
        return f"rank{self._place.rank}/" if self._place.rank and not all_ranks else ""

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

    def _media_writer(
        self,
        kind: str,
        title: str,
        series: str,
        value: Any,
        step: int | None,
        make: Callable[[object], media.MediaFile],
    ) -> Callable[[], None]:
        def write() -> None:
            data: dict[str, Any] = {"title": title, "series": series}
            if step is not None:
                data["step"] = checked(whole_number, "step", step)
            file = make(value)
            content = file.content
            if isinstance(content, Path):
                self._record_file(kind, data, content)
            else:
                name = safe_name(str(series)) + file.suffix
                self._recorder.record_file(kind, data, lambda copies: copies.write(name, content))

        return write
