"""PyTorch Lightning, as ``lightning`` or as ``pytorch_lightning``: a Logger.

| Lightning                    | published                                                    |
|------------------------------|--------------------------------------------------------------|
| ``self.log``, ``log_dict``   | metrics under the same names, with Lightning's step          |
| ``save_hyperparameters``     | params                                                       |
| ``ModelCheckpoint``          | each file it writes as a checkpoint: best or not, its score  |
| the end, an exception, Ctrl-C| the end of the run: completed, failed, killed                |

Only rank 0 publishes, as with every Logger.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from publishers.exits import describe_exception, status_of_exception
from publishers.integrations.callbacks import CallbackRun, framework_class, quietly
from publishers.run import Run

__all__ = ["StopCallback", "TrainbusLogger"]

_Logger = framework_class(
    "lightning", ("lightning.pytorch.loggers", "Logger"), ("pytorch_lightning.loggers", "Logger")
)
_Callback = framework_class(
    "lightning", ("lightning.pytorch", "Callback"), ("pytorch_lightning", "Callback")
)

_EPOCH = re.compile(r"\bepoch=(\d+)")
"""As ModelCheckpoint writes it into the names of its files."""


class TrainbusLogger(_Logger):  # type: ignore[misc,valid-type]  # known when it runs
    """Publishes what a Trainer logs.

    A logger has one run: a test or validation after the training goes on in it.
    """

    def __init__(self, run: Run | None = None, *, checkpoints: bool = True, **options: Any) -> None:
        """Begin without a run; the Trainer starts it.

        Args:
            run: To publish to; it is left open. By default one is made, and ended.
            checkpoints: Publish what ModelCheckpoint writes.
            options: For :func:`publishers.start_run`; and ``finish_seconds``, how long the end of a
                training may wait until all is stored (10).

        Raises:
            ConfigError: There are both a run and options for one, or Lightning is not installed.
        """
        super().__init__()
        self._held = CallbackRun("lightning", run, options)
        self._logs_checkpoints = checkpoints
        self._logged: dict[Path, int] = {}
        self._epoch: int | None = None

    @property
    def experiment(self) -> Any:
        """The :class:`publishers.Run`; on other ranks something that takes every call."""
        return self._use() or _Nothing()

    @property
    def name(self) -> str | None:
        """The project; None on other ranks."""
        return self._named("project")

    @property
    def version(self) -> str | None:
        """The id of the run; None on other ranks."""
        return self._named("run_id")

    def stop_callback(self) -> StopCallback:
        """A Callback for the Trainer, which ends the training when the run is asked to stop."""
        return StopCallback(self)

    @quietly
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Publish metrics; see Lightning."""
        if run := self._use():
            run.log(metrics, step)

    @quietly
    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Publish parameters; see Lightning."""
        if run := self._use():
            run.params(params)

    def log_graph(self, *_: Any, **__: Any) -> None:
        """Nothing: no tracker of the bus shows graphs, and tracing a model takes time."""

    @quietly
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Publish the files that ModelCheckpoint has written since the last call."""
        run = self._use() if self._logs_checkpoints else None
        if run is None:
            return
        for path, score, is_best in self._new_files(checkpoint_callback):
            sign = -1.0 if getattr(checkpoint_callback, "mode", "max") == "min" else 1.0
            fitness = None if score is None else sign * float(score)
            run.checkpoint(path, epoch=self._epoch_of(path), fitness=fitness, best=is_best)

    @quietly
    def finalize(self, status: str) -> None:
        """The Trainer is done (``success``), or an exception is on its way (``failed``)."""
        if not _is_rank_zero():
            return
        if status == "success":
            self._held.end("completed")
        elif status in {"failed", "aborted"}:
            error = sys.exc_info()[1]
            ended = "failed" if error is None else status_of_exception(error)
            self._held.end(ended, describe_exception(error) or "the Trainer failed")
        # Else "finished": SLURM takes the machine away, and the job is queued again.

    def follow(self, epoch: int) -> None:
        """Know the epoch of what is saved from now on."""
        self._epoch = epoch

    @quietly
    def _use(self) -> Run | None:
        if not _is_rank_zero():
            return None
        return self._held.use()

    @quietly
    def _named(self, what: str) -> str | None:
        return self._held.named(what) if _is_rank_zero() else None

    def _epoch_of(self, path: Path) -> int | None:
        if self._epoch is not None:
            return self._epoch
        found = _EPOCH.search(path.name)
        return int(found[1]) if found else None

    def _new_files(self, checkpoint: Any) -> Iterator[tuple[Path, Any, bool]]:
        best = getattr(checkpoint, "best_model_path", "")
        is_judged = getattr(checkpoint, "monitor", None) is not None
        scores = dict(getattr(checkpoint, "best_k_models", None) or {})
        last = getattr(checkpoint, "last_model_path", "")
        if last:
            scores.setdefault(last, getattr(checkpoint, "current_score", None))
        if best:
            scores[best] = getattr(checkpoint, "best_model_score", None)
        for name, score in scores.items():
            # ``last`` may be a link to one of the others.
            path = Path(name).resolve()
            if not path.exists():
                continue
            written = path.stat().st_mtime_ns
            if self._logged.get(path) != written:
                self._logged[path] = written
                yield Path(name), score, is_judged and name == best


class StopCallback(_Callback):  # type: ignore[misc,valid-type]  # known when it runs
    """Sets ``trainer.should_stop`` when the run of a :class:`TrainbusLogger` is to stop.

    With one process after each batch; with several at the end of each epoch, where all of them
    come to know of it.
    """

    def __init__(self, logger: TrainbusLogger) -> None:
        super().__init__()
        self._logger = logger

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        """An epoch begins; see Lightning."""
        self._logger.follow(int(trainer.current_epoch))

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """A batch is through; see Lightning."""
        if trainer.world_size <= 1 and self._is_asked():
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        """An epoch is through; see Lightning."""
        # One after the other: the ranks have to agree, whatever rank 0 knows.
        is_asked = self._is_asked()
        if trainer.world_size > 1:
            is_asked = trainer.strategy.broadcast(is_asked)
        if is_asked:
            trainer.should_stop = True

    def _is_asked(self) -> bool:
        return bool(self._logger.experiment.should_stop)


class _Nothing:
    """Stands for the run where there is none."""

    should_stop = False
    stop_reason = None
    id = name = project = ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


def _is_rank_zero() -> bool:
    """As Lightning's ``rank_zero_only`` sees it; the same object for both of its packages."""
    utilities = import_module("lightning_utilities.core.rank_zero")
    return int(getattr(utilities.rank_zero_only, "rank", None) or 0) == 0
