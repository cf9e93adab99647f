"""One training of Ultralytics as a run: what is published when.

| callback                  | published                                                        |
|---------------------------|------------------------------------------------------------------|
| on_pretrain_routine_start | the run, its arguments as params, phase train                    |
| on_train_epoch_end        | losses and learning rates, step = epoch; Mosaic pictures         |
| on_model_save             | a checkpoint with fitness; it comes before on_fit_epoch_end      |
| on_fit_epoch_end          | metrics of the validation, fitness, epoch time; model info once; |
|                           | Validation pictures                                              |
| on_train_end              | final metrics as summary, plots, results.csv, the final model    |
| teardown                  | the end of the run                                               |

After the last epoch on_fit_epoch_end comes once more, for the validation of best.pt, with an epoch
that was not trained: those metrics are the final ones, and no epoch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from publishers.exits import describe_exception, status_of_exception
from publishers.integrations.ultralytics import ending
from publishers.integrations.ultralytics.curves import log_curves
from publishers.integrations.ultralytics.facts import (
    config_of,
    name_of,
    params_of,
    phase_args,
    project_of_args,
)
from publishers.integrations.ultralytics.pictures import PictureFolder
from publishers.integrations.ultralytics.starting import begin_run

__all__ = ["Training", "start_options"]

_FILES = ("results.csv", "args.yaml")


def start_options(args: object, options: Mapping[str, Any], device: object) -> dict[str, Any]:
    """Arguments of ``start_run``: what the user gave, and what Ultralytics says else."""
    environ = os.environ
    config = {**config_of(args, device), **options.get("config", {})}
    return {
        "project": project_of_args(args, environ, os.fspath(Path.cwd())),
        "name": name_of(args, environ),
        "tags": {"Ultralytics": ""},
        "framework": "ultralytics",
        # One process speaks for all: nobody has to wait for the end of the other ranks.
        "rank": 0,
        "world": 1,
        **options,
        "config": config,
    }


class Training:
    """A run and what is known of its training so far. One thread uses it.

    Args:
        trainer: The trainer, at its on_pretrain_routine_start.
        options: For ``start_run``, from the user.

    Raises:
        ConfigError: The run cannot be started.
    """

    def __init__(self, trainer: Any, options: Mapping[str, Any]) -> None:
        self.folder = Path(trainer.save_dir)
        self._pictures = PictureFolder(self.folder)
        self._old_metrics: Any = None
        self._trained_epoch: int | None = None
        self._best_epoch: int | None = None
        self._has_mosaic = False
        self._is_complete = False
        self._finish_seconds = float(options.get("finish_seconds", 10.0))
        given = {name: value for name, value in options.items() if name != "finish_seconds"}
        args = trainer.args
        started = start_options(args, given, getattr(trainer, "device", None))
        resumed = getattr(args, "resume", None)
        self.run, self._has_info = begin_run(started, params_of(args), self.folder, resumed)
        self.run.phase("train", "started", phase_args(args))
        ending.begin(self)

    def set_out(self, trainer: Any) -> None:
        """All is set up; the first epoch is about to begin."""
        # Until there is a validation these are zeros.
        self._old_metrics = trainer.metrics
        self.obey(trainer)

    def obey(self, trainer: Any, *, is_between_epochs: bool = True) -> None:
        """End the training if the run was asked to stop.

        Args:
            trainer: Of this training.
            is_between_epochs: All ranks come to know of it here; within an epoch they would not,
                and wait for each other for ever.
        """
        is_alone = int(getattr(trainer, "world_size", 0) or 0) <= 1
        if (is_between_epochs or is_alone) and self.run.should_stop:
            trainer.stop = True

    def end_of_training_epoch(self, trainer: Any) -> None:
        """Losses and learning rates of an epoch."""
        epoch = trainer.epoch
        is_second = self._trained_epoch is not None and epoch > self._trained_epoch
        self._trained_epoch = epoch
        losses = trainer.label_loss_items(trainer.tloss, prefix="train")
        self.run.log({**losses, **trainer.lr}, step=epoch)
        if is_second and not self._has_mosaic:
            # Those of the first epoch, which are drawn by now.
            self._has_mosaic = True
            self.log_mosaics()

    def save(self, trainer: Any) -> None:
        """Weights were written."""
        epoch, fitness = trainer.epoch, trainer.fitness
        is_best = bool(fitness is not None and trainer.best_fitness == fitness)
        if is_best:
            self._best_epoch = epoch
        # The same bytes; the name says which one it is.
        path = trainer.best if is_best and Path(trainer.best).is_file() else trainer.last
        self.run.checkpoint(path, epoch=epoch, fitness=fitness, best=is_best)

    def end_of_epoch(self, trainer: Any) -> None:
        """The evaluation of an epoch."""
        if trainer.epoch != self._trained_epoch:
            return
        if not self._has_info:
            self._has_info = True
            self._log_model_info(trainer)
        row: dict[str, Any] = {"Epoch Time": trainer.epoch_time}
        if trainer.metrics is not self._old_metrics:
            # Without a validation in this epoch the trainer still holds those of an earlier one.
            self._old_metrics = trainer.metrics
            row |= trainer.metrics or {}
            if trainer.fitness is not None:
                row["fitness"] = trainer.fitness
        self.run.log(row, step=trainer.epoch)
        self.log_validation()
        self.obey(trainer)

    def log_mosaics(self) -> None:
        """New pictures of training batches."""
        for one in self._pictures.batches("train", "Mosaic"):
            self.run.image(one.title, one.series, one.path, one.step)

    def log_validation(self) -> None:
        """New pictures of validation batches."""
        for one in self._pictures.batches("val", "Validation"):
            self.run.image(one.title, one.series, one.path, one.step)

    def complete(self, trainer: Any) -> None:
        """The training is through: its results."""
        self._is_complete = True
        # As MLflow's own callback: a step of their own, behind the last epoch.
        self.run.summary(_final_metrics(trainer), trainer.epoch + 1)
        self.log_mosaics()
        self.log_validation()
        validator = getattr(trainer, "validator", None)
        drawn = [*(trainer.plots or {}), *(getattr(validator, "plots", None) or {})]
        for path in self._pictures.plots(drawn):
            self.run.plot(path.stem, path.stem, path)
        log_curves(self.run, trainer)
        for name in _FILES:
            if (self.folder / name).is_file():
                self.run.artifact(self.folder / name)
        self._log_final(trainer)
        self.run.phase("train", "ended")

    def end(self) -> None:
        """The trainer is done, or has crashed; then the exception is still on its way."""
        if self._is_complete:
            self._finish("completed", "")
            return
        error = sys.exc_info()[1]
        status = "failed" if error is None else status_of_exception(error)
        self._finish(status, describe_exception(error) or "the training did not come to its end")

    def give_up(self, status: str, error: str) -> None:
        """See :class:`publishers.integrations.ultralytics.ending.Unended`."""
        self._finish(*(("completed", "") if self._is_complete else (status, error)))

    def _finish(self, status: str, error: str) -> None:
        ending.forget(self)
        self.run.finish(status, error, self._finish_seconds)

    def _log_model_info(self, trainer: Any) -> None:
        from ultralytics.utils.torch_utils import model_info_for_loggers

        self.run.summary(model_info_for_loggers(trainer))

    def _log_final(self, trainer: Any) -> None:
        best = Path(trainer.best)
        has_best = best.is_file()
        path = best if has_best else Path(trainer.last)
        if not path.is_file():
            return
        epoch = _best_epoch(trainer, self._best_epoch) if has_best else self._trained_epoch
        fitness = trainer.best_fitness if has_best else trainer.fitness
        self.run.checkpoint(path, epoch=epoch, fitness=fitness, best=True, final=True)


def _final_metrics(trainer: Any) -> dict[str, Any]:
    """Those of the last validation, which was that of best.pt; rounded nowhere."""
    metrics = getattr(getattr(trainer, "validator", None), "metrics", None)
    found = getattr(metrics, "results_dict", None) or trainer.metrics or {}
    return dict(found)


def _best_epoch(trainer: Any, seen: int | None) -> int | None:
    """The epoch best.pt is of: this attempt has seen it, or an earlier one has noted it."""
    if seen is not None:
        return seen
    noted = getattr(getattr(trainer, "stopper", None), "best_epoch", None)
    # The stopper counts from 1.
    return noted - 1 if isinstance(noted, int) and noted > 0 else None
