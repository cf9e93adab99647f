"""The callbacks: plain functions, since a DDP training pickles them into its processes.

What they know of a training is made when it begins, and is no part of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from publishers.integrations.ultralytics.aside import Aside
from publishers.integrations.ultralytics.guard import guarded
from publishers.integrations.ultralytics.training import Training
from publishers.run import Run

__all__ = ["CALLBACKS", "attach", "current_run", "install"]

_M = TypeVar("_M")

_options: WeakKeyDictionary[Any, Mapping[str, Any]] = WeakKeyDictionary()
_trainings: WeakKeyDictionary[Any, Training] = WeakKeyDictionary()
_aside = Aside()


def attach(model: _M, **options: Any) -> _M:
    """Publish what a model does: its trainings, and what it is validated or used for.

    Args:
        model: A ``YOLO`` (or any other model, or a trainer) of Ultralytics.
        options: For :func:`publishers.start_run`; and ``finish_seconds``, how long the end of a
            training may wait until all is stored (10).

    Returns:
        The model.
    """
    callbacks: dict[str, list[Callable[..., None]]] = model.callbacks  # type: ignore[attr-defined]  # every model of theirs
    remember = functools.partial(note_options, options)
    for event, callback in CALLBACKS.items():
        listed = callbacks.setdefault(event, [])
        if event in _FIRST:
            listed[:] = [one for one in listed if not _is_note(one)]
            listed.insert(0, remember)
        if callback not in listed:
            listed.append(callback)
    return model


def install(module: Any) -> None:
    """Publish what every model does that is made from now on; the import hook calls this.

    Args:
        module: ``ultralytics.utils.callbacks.base``.
    """
    for event, callback in CALLBACKS.items():
        listed = module.default_callbacks.setdefault(event, [])
        if callback not in listed:
            listed.append(callback)


def current_run() -> Run | None:
    """The run of the training under way in this process; None without one."""
    runs = [training.run for training in list(_trainings.values())]
    return runs[-1] if runs else None


def note_options(options: Mapping[str, Any], subject: Any) -> None:
    """Remember what the user gave for what is about to begin. Never raises."""
    _note(options, subject)


@guarded
def _note(options: Mapping[str, Any], subject: Any) -> None:
    _options[subject] = options


@guarded
def on_pretrain_routine_start(trainer: Any) -> None:
    """A training begins: start its run."""
    _aside.end()
    training = Training(trainer, _options.get(trainer, {}))
    _trainings[trainer] = training
    _aside.last_training = training.run


@guarded
def on_train_start(trainer: Any) -> None:
    """All is set up."""
    if training := _trainings.get(trainer):
        training.set_out(trainer)


@guarded
def on_train_batch_end(trainer: Any) -> None:
    """A moment to be stopped at."""
    if training := _trainings.get(trainer):
        training.obey(trainer, is_between_epochs=False)


@guarded
def on_train_epoch_end(trainer: Any) -> None:
    """An epoch is trained."""
    if training := _trainings.get(trainer):
        training.end_of_training_epoch(trainer)


@guarded
def on_model_save(trainer: Any) -> None:
    """Weights are written."""
    if training := _trainings.get(trainer):
        training.save(trainer)


@guarded
def on_fit_epoch_end(trainer: Any) -> None:
    """An epoch is evaluated."""
    if training := _trainings.get(trainer):
        training.end_of_epoch(trainer)


@guarded
def on_train_end(trainer: Any) -> None:
    """The training is through."""
    if training := _trainings.get(trainer):
        training.complete(trainer)


@guarded
def teardown(trainer: Any) -> None:
    """The trainer is done, or has crashed."""
    if training := _trainings.pop(trainer, None):
        training.end()


@guarded
def on_val_start(validator: Any) -> None:
    """A validation of its own begins, or one of a training."""
    if not _is_part_of_training(validator):
        _aside.start("val", validator, _options.get(validator, {}))


@guarded
def on_val_end(validator: Any) -> None:
    """A validation is through."""
    if not _is_part_of_training(validator):
        _aside.end_of_validation(validator)


@guarded
def on_predict_start(predictor: Any) -> None:
    """A prediction begins."""
    if not _trainings:
        _aside.start("predict", predictor, _options.get(predictor, {}))


@guarded
def on_predict_end(predictor: Any) -> None:
    """A prediction is through."""
    _aside.stop("predict", predictor)


@guarded
def on_export_start(exporter: Any) -> None:
    """An export begins."""
    if not _trainings:
        _aside.start("export", exporter, _options.get(exporter, {}))


@guarded
def on_export_end(exporter: Any) -> None:
    """An export is through."""
    _aside.stop("export", exporter)


def _is_part_of_training(validator: Any) -> bool:
    """Also the last validation of a training, that of best.pt, which does not say so itself."""
    if getattr(validator, "training", False):
        return True
    folder = Path(validator.save_dir)
    return any(training.folder == folder for training in list(_trainings.values()))


def _is_note(callback: object) -> bool:
    return isinstance(callback, functools.partial) and callback.func is note_options


CALLBACKS: dict[str, Callable[..., None]] = {
    "on_pretrain_routine_start": on_pretrain_routine_start,
    "on_train_start": on_train_start,
    "on_train_batch_end": on_train_batch_end,
    "on_train_epoch_end": on_train_epoch_end,
    "on_model_save": on_model_save,
    "on_fit_epoch_end": on_fit_epoch_end,
    "on_train_end": on_train_end,
    "teardown": teardown,
    "on_val_start": on_val_start,
    "on_val_end": on_val_end,
    "on_predict_start": on_predict_start,
    "on_predict_end": on_predict_end,
    "on_export_start": on_export_start,
    "on_export_end": on_export_end,
}

_FIRST = ("on_pretrain_routine_start", "on_val_start", "on_predict_start", "on_export_start")
"""Where something begins that needs the user's options."""
