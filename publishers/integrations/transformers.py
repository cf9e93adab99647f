"""Hugging Face Transformers: a TrainerCallback.

| Trainer                    | published                                                         |
|----------------------------|-------------------------------------------------------------------|
| arguments, model.config    | params; sections General and model                                |
| ``log``                    | metrics: ``loss`` as train/loss, ``eval_loss`` as eval/loss,      |
|                            | ``test_loss`` as test/loss; step is the global step               |
| a checkpoint folder        | a checkpoint: the epoch, whether it is the best, its metric       |
| the end of train()         | the end of the run                                                |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from publishers.integrations.callbacks import CallbackRun, framework_class, quietly
from publishers.run import Run

__all__ = ["TrainbusCallback"]

_Callback = framework_class("transformers", ("transformers", "TrainerCallback"))

_PREFIXES = {"eval_": "eval/", "test_": "test/"}
"""As the Trainer's other integrations name metrics; all others begin with ``train/``."""


class TrainbusCallback(_Callback):  # type: ignore[misc,valid-type]  # known when it runs
    """Publishes what a Trainer does; only the first process of all publishes.

    Each training has a run. What is evaluated before or after it belongs to the same.
    """

    def __init__(self, run: Run | None = None, *, checkpoints: bool = True, **options: Any) -> None:
        """Begin without a run; the Trainer starts it.

        Args:
            run: To publish to; it is left open. By default one is made, and ended.
            checkpoints: Publish the checkpoint folders, with the optimizer's state as they are.
            options: For :func:`publishers.start_run`; and ``finish_seconds``, how long the end of a
                training may wait until all is stored (10).

        Raises:
            ConfigError: There are both a run and options for one, or Transformers is not
                installed.
        """
        super().__init__()
        self._held = CallbackRun("transformers", run, options)
        self._logs_checkpoints = checkpoints
        self._is_training = False

    @property
    def run(self) -> Run | None:
        """The run, while it is open in this process."""
        return self._held.open

    @quietly
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A training begins: start its run."""
        if not state.is_world_process_zero:
            return
        name = state.trial_name or args.run_name
        run = self._held.begin_training(name=name)
        self._is_training = True
        run.params(args.to_dict())
        config = getattr(kwargs.get("model"), "config", None)
        if config is not None:
            run.params(config if isinstance(config, Mapping) else config.to_dict(), section="model")
        if state.trial_params:
            run.params(state.trial_params, section="trial")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """A step is through: a moment to be stopped at, with one process."""
        if args.world_size <= 1 and self._is_asked():
            control.should_training_stop = True
        return control

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> Any:
        """Metrics; with several processes also a moment to be stopped at, as all come here."""
        if state.is_world_process_zero:
            self._log(state, logs or {})
        if args.world_size > 1 and _of_first(self._is_asked()):
            control.should_training_stop = True
        return control

    @quietly
    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint is written."""
        run = self.run
        if run is None or not self._logs_checkpoints or not state.is_world_process_zero:
            return
        # A search for parameters has a folder for each trial, which only the state knows.
        folder = _newest(Path(args.output_dir), state.global_step)
        is_best = (
            bool(args.metric_for_best_model)
            and getattr(state, "best_global_step", None) == state.global_step
        )
        run.checkpoint(
            folder,
            epoch=_epoch(state.epoch),
            fitness=_fitness(args, state),
            best=is_best,
        )

    @quietly
    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The training is through: end its run."""
        self._is_training = False
        self._held.end("completed")

    @quietly
    def _log(self, state: Any, logs: Mapping[str, Any]) -> None:
        self._held.use().log({_name(key): logs[key] for key in logs}, step=state.global_step)

    @quietly
    def _is_asked(self) -> bool:
        return self._is_training and self.run is not None and self.run.should_stop


def _name(key: str) -> str:
    for prefix, group in _PREFIXES.items():
        if key.startswith(prefix):
            return group + key.removeprefix(prefix)
    return f"train/{key}"


def _epoch(done: float | None) -> int | None:
    """Which epoch it is, from 0, after so many: 1.0 is the end of the first."""
    return None if done is None else max(0, math.ceil(done - 1e-6) - 1)


def _newest(folder: Path, step: int) -> Path:
    name = f"checkpoint-{step}"
    own = folder / name
    trials = sorted(folder.glob(f"run-*/{name}"), key=lambda path: path.stat().st_mtime)
    return trials[-1] if trials and not own.is_dir() else own


def _fitness(args: Any, state: Any) -> float | None:
    """The metric that decides what is best, of the last evaluation; higher is better."""
    name = args.metric_for_best_model
    if not name:
        return None
    name = name if name.startswith("eval_") else f"eval_{name}"
    for entry in reversed(state.log_history):
        if name in entry:
            return float(entry[name]) if args.greater_is_better else -float(entry[name])
    return None


def _of_first(is_asked: bool | None) -> bool:
    """What the first process knows; every process has to ask."""
    answer = [bool(is_asked)]
    import_module("accelerate.utils").broadcast_object_list(answer)
    return answer[0]
