"""Validations, predictions and exports that belong to no training.

They share one run of this process, which begins with the first of them and ends with the process,
or when a training begins: a prediction for each picture must not make a run for each. After a
training it is nested in the run of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from publishers.integrations.ultralytics.facts import params_of, phase_args
from publishers.integrations.ultralytics.pictures import PictureFolder
from publishers.integrations.ultralytics.training import start_options
from publishers.run import Run
from publishers.start import start_run

__all__ = ["Aside"]


class Aside:
    """The run for what is no training. One thread uses it.

    Attributes:
        last_training: The last training of this process.
    """

    def __init__(self) -> None:
        self._run: Run | None = None
        self._phases: dict[str, int] = {}
        self._finish_seconds = 10.0
        self.last_training: Run | None = None

    def start(self, phase: str, subject: Any, options: Mapping[str, Any]) -> None:
        """A phase begins.

        Args:
            phase: ``val``, ``predict`` or ``export``.
            subject: The validator, predictor or exporter.
            options: For ``start_run``, from the user; those of the first phase count.
        """
        run = self._run or self._open(phase, subject, options)
        self._phases[phase] = id(subject)
        run.phase(phase, "started", phase_args(subject.args))

    def end_of_validation(self, validator: Any) -> None:
        """A validation is through: its metrics and pictures."""
        run = self._run
        if run is None or "val" not in self._phases:
            return
        run.summary(getattr(getattr(validator, "metrics", None), "results_dict", None) or {})
        pictures = PictureFolder(Path(validator.save_dir))
        for one in pictures.batches("val", "Validation"):
            run.image(one.title, one.series, one.path, one.step)
        for path in pictures.plots(getattr(validator, "plots", None) or {}):
            run.plot(path.stem, path.stem, path)
        self.stop("val", validator)

    def stop(self, phase: str, subject: Any) -> None:
        """A phase is through, if it began here."""
        if self._run is not None and self._phases.get(phase) == id(subject):
            del self._phases[phase]
            self._run.phase(phase, "ended")

    def end(self) -> None:
        """Something else begins, which has a run of its own."""
        run, self._run = self._run, None
        self._phases = {}
        if run is not None:
            run.finish("completed", "", self._finish_seconds)

    def _open(self, phase: str, subject: Any, options: Mapping[str, Any]) -> Run:
        given = {name: value for name, value in options.items() if name != "finish_seconds"}
        self._finish_seconds = float(options.get("finish_seconds", 10.0))
        started = start_options(subject.args, given, getattr(subject, "device", None))
        trained = self.last_training
        if trained is not None:
            # What names the run of the training, here or in the environment, names this one too.
            started |= {"run_id": f"{trained.id}-{phase}", "parent": trained.id}
            started |= {"project": trained.project, "name": f"{trained.name} {phase}"}
        self._run = start_run(**started, params=params_of(subject.args))
        return self._run
