"""Keras 3, on any of its backends: a Callback.

| Keras                         | published                                                      |
|-------------------------------|----------------------------------------------------------------|
| ``fit``: arguments, optimizer,| params; sections General, optimizer, model                     |
| the model's config            |                                                                |
| the end of an epoch           | ``loss`` as train/loss, ``val_loss`` as val/loss, lr; the step |
|                               | is the epoch, from 0                                           |
| a batch, if asked for         | ``loss`` as batch/loss; the step counts batches from 0         |
| ``evaluate`` on its own       | ``loss`` as test/loss, at the step of the last epoch           |
| the end of ``fit``            | the end of the run                                             |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from publishers.integrations.callbacks import CallbackRun, framework_class, quietly
from publishers.run import Run

__all__ = ["TrainbusCallback"]

_Callback = framework_class("keras", ("keras.callbacks", "Callback"))


class TrainbusCallback(_Callback):  # type: ignore[misc,valid-type]  # known when it runs
    """Publishes what ``fit`` and ``evaluate`` do; of several ranks only the first publishes.

    Each ``fit`` has a run. What is evaluated before or after it belongs to the same.
    """

    def __init__(self, run: Run | None = None, *, batches: bool = False, **options: Any) -> None:
        """Begin without a run; ``fit`` starts it.

        Args:
            run: To publish to; it is left open. By default one is made, and ended.
            batches: Publish the metrics of each batch too: Keras then waits for each of them.
            options: For :func:`publishers.start_run`; and ``finish_seconds``, how long the end of a
                training may wait until all is stored (10).

        Raises:
            ConfigError: There are both a run and options for one, or Keras is not installed.
        """
        super().__init__()
        self._held = CallbackRun("keras", run, options)
        self._logs_batches = batches
        # Keras asks: whether it need not wait for a batch's values before it calls us.
        self.async_safe = not batches
        self._is_training = False
        self._batch = 0
        self._epoch = 0

    @property
    def run(self) -> Run | None:
        """The run, while it is open in this process."""
        return self._held.open

    @quietly
    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """``fit`` begins: start its run."""
        if not _is_first_rank():
            return
        run = self._held.begin_training()
        self._is_training, self._batch = True, 0
        model = self.model
        facts = {"model": model.name, **(self.params or {})}
        if model.built:
            facts["parameters"] = model.count_params()
        run.params(facts)
        self._log_config(run, "optimizer", getattr(model, "optimizer", None))
        self._log_config(run, "model", model)

    @quietly
    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """A batch is through."""
        run = self.run
        if run is None or not self._is_training:
            return
        if self._logs_batches and logs:
            run.log({f"batch/{name}": logs[name] for name in logs}, step=self._batch)
        self._batch += 1
        if run.should_stop:
            self.model.stop_training = True

    @quietly
    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """An epoch is through, with its validation."""
        run = self.run
        if run is None or not self._is_training:
            return
        self._epoch = epoch
        run.log({**_named(logs or {}), **self._learning_rate()}, step=epoch)
        if run.should_stop:
            self.model.stop_training = True

    @quietly
    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """``evaluate`` is through, on its own or as part of ``fit``."""
        if self._is_training or not logs or not _is_first_rank():
            return
        self._held.use().log({f"test/{name}": logs[name] for name in logs}, step=self._epoch)

    @quietly
    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """``fit`` is through: end its run."""
        self._is_training = False
        self._held.end("completed")

    @quietly
    def _log_config(self, run: Run, section: str, part: Any) -> None:
        # A model of the user's own may have no config; the rest is published without it.
        if part is not None:
            run.params(part.get_config(), section=section)

    def _learning_rate(self) -> dict[str, float]:
        rate = getattr(getattr(self.model, "optimizer", None), "learning_rate", None)
        if rate is None:
            return {}
        return {"lr": float(import_module("keras").ops.convert_to_numpy(rate))}


def _named(logs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"val/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}": value
        for name, value in logs.items()
    }


def _is_first_rank() -> bool:
    """As torchrun numbers the processes; without it there is one."""
    return os.environ.get("RANK", "0") in {"0", "-1", ""}
