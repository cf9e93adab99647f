"""YOLOv5: its ``train.py`` as it is, under ``trainbus run``.

The import hook waits for YOLOv5's ``utils.callbacks`` and registers actions with every
``Callbacks`` that is made. Without the hook: ``register(callbacks)`` on one that is handed to
``train.main(opt, callbacks)``.

What is published when:

| action                   | published                                                         |
|--------------------------|-------------------------------------------------------------------|
| on_pretrain_routine_end  | the run; options as params, hyperparameters in their own section  |
| on_train_epoch_end       | Mosaic pictures, once those of the first epoch are drawn          |
| on_fit_epoch_end         | the 13 values of an epoch and its fitness, step = epoch           |
| on_model_save            | a checkpoint                                                      |
| on_train_end             | results as summary, pictures, plots, files, the final model       |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from publishers.integrations.ultralytics import ending
from publishers.integrations.ultralytics.facts import (
    name_of,
    params_of,
    phase_args,
    project_of_args,
)
from publishers.integrations.ultralytics.guard import guarded, warnings
from publishers.integrations.ultralytics.pictures import PictureFolder
from publishers.integrations.ultralytics.starting import begin_run
from publishers.run import Run

__all__ = ["KEYS", "Listener", "install", "register"]

KEYS = (
    "train/box_loss",
    "train/obj_loss",
    "train/cls_loss",
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
    "val/box_loss",
    "val/obj_loss",
    "val/cls_loss",
    "x/lr0",
    "x/lr1",
    "x/lr2",
)
"""The values of an epoch, in the order in which YOLOv5 hands them over."""

_RESULTS = KEYS[3:10]
_FILES = ("results.csv", "opt.yaml", "hyp.yaml")
_DEFAULT_PROJECT = "YOLOv5"
_OWN_DEFAULT = "runs/train"
_ACTIONS = (
    "on_pretrain_routine_start",
    "on_pretrain_routine_end",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_fit_epoch_end",
    "on_model_save",
    "on_train_end",
)
_NAME = "trainbus"


def install(module: Any) -> None:
    """Listen to every ``Callbacks`` that is made from now on; the import hook calls this.

    Args:
        module: A module called ``utils.callbacks``: another program may have one too, and is left
            alone.
    """
    kind = getattr(module, "Callbacks", None)
    if not isinstance(kind, type) or not hasattr(kind, "register_action"):
        return
    make: Callable[..., None] = kind.__init__  # type: ignore[misc]  # of a class that we do not know
    if getattr(make, "is_of_trainbus", False):
        return

    def make_and_register(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        _register(self)

    make_and_register.is_of_trainbus = True  # type: ignore[attr-defined]  # a mark for the next time
    kind.__init__ = make_and_register  # type: ignore[misc]  # as above


def register(callbacks: Any, **options: Any) -> Listener:
    """Publish the training that uses these callbacks.

    Args:
        callbacks: A ``utils.callbacks.Callbacks`` of YOLOv5.
        options: For :func:`publishers.start_run`; and ``finish_seconds``, how long the end of a
            training may wait until all is stored (10).
    """
    for action in _ACTIONS:
        listed = callbacks.get_registered_actions(action)
        listed[:] = [one for one in listed if one.get("name") != _NAME]
    listener = Listener(callbacks, options)
    for action in _ACTIONS:
        callbacks.register_action(action, _NAME, guarded(getattr(listener, action)))
    return listener


@guarded
def _register(callbacks: Any) -> None:
    register(callbacks)


class Listener:
    """One training of YOLOv5 as a run. One thread uses it.

    Args:
        callbacks: Those that it is registered with.
        options: For ``start_run``.

    Attributes:
        run: None until a training begins.
    """

    def __init__(self, callbacks: Any, options: Mapping[str, Any]) -> None:
        self.run: Run | None = None
        self._callbacks = callbacks
        self._options = options
        self._finish_seconds = float(options.get("finish_seconds", 10.0))
        self._folder = Path()
        self._pictures = PictureFolder(Path())
        self._last_epoch: int | None = None
        self._best: tuple[int, float] | None = None
        self._has_mosaic = False

    def on_pretrain_routine_start(self, *_: Any) -> None:
        """A training begins; what it is of is not known yet."""
        if self.run is not None:
            self.give_up("failed", "another training began in its place")
        self._last_epoch, self._best, self._has_mosaic = None, None, False

    def on_pretrain_routine_end(self, *_: Any) -> None:
        """Everything is set up. YOLOv5's own loggers know of what."""
        loggers = self._find_loggers()
        opt = getattr(loggers, "opt", None)
        self._folder = Path(getattr(loggers, "save_dir", "."))
        self._pictures = PictureFolder(self._folder)
        params = {name: one for name, one in params_of(opt).items() if name != "hyp"}
        resumed = getattr(opt, "weights", True) if getattr(opt, "resume", False) else None
        given = self._start_options(opt)
        self.run, is_resumed = begin_run(given, params, self._folder, resumed)
        hyp = getattr(loggers, "hyp", None)
        if isinstance(hyp, Mapping) and not is_resumed:
            self.run.params(dict(hyp), section="Hyperparameters")
        self.run.phase("train", "started", phase_args(opt))
        ending.begin(self)

    def on_train_batch_end(self, *_: Any) -> None:
        """A moment to be stopped at, the only one YOLOv5 has: it leaves without another word."""
        run = self.run
        if run is None or not run.should_stop:
            return
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            warnings.warn(
                "stop", f"run {run.id}: YOLOv5 cannot stop a training on several GPUs: it goes on"
            )
            return
        self._complete({})
        self._callbacks.stop_training = True

    def on_train_epoch_end(self, epoch: int, *_: Any) -> None:
        """An epoch is trained; the pictures of the first are drawn once another is."""
        if self._last_epoch is not None and not self._has_mosaic:
            self._has_mosaic = True
            self._log_pictures("train", "Mosaic")

    def on_fit_epoch_end(self, vals: Any, epoch: int, best_fitness: Any, fi: Any, *_: Any) -> None:
        """An epoch is evaluated. For COCO the last one comes twice: then with best.pt's results."""
        if self.run is None:
            return
        row = {key: _number(value) for key, value in zip(KEYS, vals, strict=False)}
        if epoch == self._last_epoch:
            self.run.summary({key: row[key] for key in _RESULTS if key in row}, epoch + 1)
            return
        self._last_epoch = epoch
        self.run.log({**row, "fitness": _number(fi)}, step=epoch)
        self._log_pictures("val", "Validation")

    def on_model_save(
        self, last: Any, epoch: int, final_epoch: bool, best_fitness: Any, fi: Any, *_: Any
    ) -> None:
        """Weights are written."""
        if self.run is None:
            return
        fitness = _number(fi)
        is_best = _number(best_fitness) == fitness
        if is_best:
            self._best = (epoch, fitness)
        self.run.checkpoint(last, epoch=epoch, fitness=fitness, best=is_best)

    def on_train_end(self, last: Any, best: Any, epoch: int, results: Any, *_: Any) -> None:
        """The training is through."""
        self._complete({key: _number(value) for key, value in zip(_RESULTS, results, strict=False)})

    def give_up(self, status: str, error: str) -> None:
        """See :class:`publishers.integrations.ultralytics.ending.Unended`."""
        run, self.run = self.run, None
        ending.forget(self)
        if run is not None:
            run.finish(status, error, self._finish_seconds)

    def _complete(self, results: Mapping[str, Any]) -> None:
        run = self.run
        if run is None:
            return
        if results:
            # A step of their own, behind the last epoch: MLflow has no other place for them.
            run.summary(results, None if self._last_epoch is None else self._last_epoch + 1)
        self._log_pictures("train", "Mosaic")
        self._log_pictures("val", "Validation")
        for path in self._pictures.plots([]):
            run.plot(path.stem, path.stem, path)
        for name in _FILES:
            if (self._folder / name).is_file():
                run.artifact(self._folder / name)
        self._log_final(run)
        run.phase("train", "ended")
        self.give_up("completed", "")

    def _log_final(self, run: Run) -> None:
        best, last = (self._folder / "weights" / name for name in ("best.pt", "last.pt"))
        if best.is_file():
            epoch, fitness = self._best or (None, None)
            run.checkpoint(best, epoch=epoch, fitness=fitness, best=True, final=True)
        elif last.is_file():
            run.checkpoint(last, epoch=self._last_epoch, best=True, final=True)

    def _log_pictures(self, start: str, title: str) -> None:
        if self.run is not None:
            for one in self._pictures.batches(start, title):
                self.run.image(one.title, one.series, one.path, one.step)

    def _start_options(self, opt: Any) -> dict[str, Any]:
        environ = os.environ
        project = project_of_args(opt, environ, os.fspath(Path.cwd()))
        if project is not None and project.endswith(_OWN_DEFAULT):
            project = None if environ.get("TRAINBUS_PROJECT") else _DEFAULT_PROJECT
        name = name_of(opt, environ) and self._folder.name
        given = {key: value for key, value in self._options.items() if key != "finish_seconds"}
        return {
            "project": project,
            "name": name or None,
            "tags": {"YOLOv5": ""},
            "framework": "yolov5",
            # One process speaks for all: nobody has to wait for the end of the other ranks.
            "rank": 0,
            "world": 1,
            **given,
        }

    def _find_loggers(self) -> Any:
        """YOLOv5's own loggers, which are registered too and hold what the actions do not tell."""
        actions: Mapping[str, list[Any]] = self._callbacks.get_registered_actions()
        for listed in actions.values():
            for action in reversed(listed):
                owner = getattr(action.get("callback"), "__self__", None)
                if hasattr(owner, "opt") and hasattr(owner, "save_dir"):
                    return owner
        return None


def _number(value: Any) -> float:
    """A number, also out of an array or tensor of one element, as ``fi`` and the best one are."""
    item = getattr(value, "item", None)
    return float(item() if callable(item) else value)
