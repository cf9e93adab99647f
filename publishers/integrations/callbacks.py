"""What the callbacks of training frameworks share: whose run it is, and that they never raise.

A run that the user gave is used and left open. One that is made here begins with the first use and
ends with the training; what is logged after that (an evaluation, a test) goes on in the same run,
as another attempt of it.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from bus.errors import ConfigError, EventError
from bus.source import Source
from publishers.auto.environ import project_of
from publishers.drops import Drops
from publishers.integrations.ultralytics import ending
from publishers.run import Run
from publishers.start import start_run

__all__ = ["CallbackRun", "framework_class", "quietly"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_warnings = Drops()

_NO_END = "the training did not come to its end"


def quietly(callback: Callable[_P, _T]) -> Callable[_P, _T | None]:
    """A callback that only warns, once, where it fails, and gives None then.

    A value that a run with ``strict=True`` cannot take is still raised: it was asked for.
    """

    @functools.wraps(callback)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        try:
            return callback(*args, **kwargs)
        except EventError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the training goes on
            _warnings.warn(
                "integration",
                f"{callback.__qualname__} failed, the training goes on without what it publishes: "
                f"{type(error).__name__}: {error}",
                about=f"{callback.__module__}.{callback.__qualname__}",
            )
            return None

    return call


def framework_class(extra: str, *places: tuple[str, str]) -> Any:
    """A class of a framework to build upon.

    Where the framework is not installed, a class that says what to install once somebody makes an
    object of it: the module that builds upon it can be imported without the framework.

    Args:
        extra: Of this distribution, which brings the framework.
        places: Module and class; what the program has imported already goes before the others.

    Raises:
        ImportError: The framework is there, and something is wrong with it.
    """
    for module, name in sorted(places, key=lambda place: _top(place[0]) not in sys.modules):
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name != _top(module):
                raise

    def refuse(cls: type, *_: object, **__: object) -> object:
        raise ConfigError(f"{cls.__name__} needs {extra}: pip install 'trainbus[{extra}]'")

    return type(f"No{extra.title()}", (), {"__new__": refuse, "__doc__": f"{extra} is missing."})


def _top(module: str) -> str:
    return module.partition(".")[0]


class CallbackRun:
    """The run that a callback publishes to. One thread uses it.

    It can be pickled: the copy goes on in the same run, if that was made here.
    """

    def __init__(self, framework: str, run: Run | None, options: Mapping[str, Any]) -> None:
        """Begin without a run.

        Args:
            framework: For ``start_run``.
            run: The user's; None to make one.
            options: For ``start_run``, from the user; and ``finish_seconds``, how long the end of
                a training may wait until all is stored (10).

        Raises:
            ConfigError: There are both a run and options for one.
        """
        given = dict(options)
        self._finish_seconds = float(given.pop("finish_seconds", 10.0))
        if run is not None and given:
            raise ConfigError(f"run= is there already: {', '.join(given)} would not count")
        self._options = {"framework": framework, "rank": 0, "world": 1, **given}
        self._given = run
        self._was_given = run is not None
        self._run: Run | None = None
        self._identity: dict[str, Any] = {}
        self._has_trained = False
        self._refusal: ConfigError | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None, "_given": None}

    @property
    def open(self) -> Run | None:
        """The run, if there is one that has not ended."""
        return self._given or self._run

    def named(self, what: str) -> str:
        """The ``run_id``, ``project`` or ``name`` of the run, which begins if there was none yet.

        Raises:
            ConfigError: No run can be started.
        """
        if self._was_given or what not in self._identity:
            self.use()
        given = self._given
        if given is not None:
            return {"run_id": given.id, "project": given.project, "name": given.name}[what]
        return str(self._identity[what])

    def begin_training(self, **defaults: Any) -> Run:
        """A training begins: the run for it.

        What was evaluated before belongs to it; after a training, the next one has a run of its
        own, unless the user has named one.

        Args:
            defaults: For ``start_run``, where the user gave nothing.

        Raises:
            ConfigError: No run can be started.
        """
        # Nobody tells a callback of a crash: a training that did not end shows by the next.
        ending.begin(self)
        if self._has_trained and not self._options.get("run_id"):
            self._identity = {}
        self._has_trained = True
        self._refusal = None
        return self.use(**defaults)

    def use(self, **defaults: Any) -> Run:
        """The run, begun or gone on with if it is not open.

        Args:
            defaults: For ``start_run``, where the user gave nothing.

        Raises:
            ConfigError: No run can be started.
        """
        run = self.open
        if run is not None:
            return run
        if self._refusal is not None:
            raise self._refusal
        try:
            return self._start(defaults)
        except ConfigError as error:
            # Said once: not to be tried again at every step.
            self._refusal = error
            raise

    def _start(self, defaults: Mapping[str, Any]) -> Run:
        if self._was_given:
            raise ConfigError(
                "the run given as run= belongs to another process: name it by run_id= instead"
            )
        used = {name: value for name, value in defaults.items() if value is not None}
        used |= {"project": _default_project(), **self._options, **self._identity}
        run = self._run = start_run(**used)
        self._identity = {
            "run_id": run.id,
            "project": run.project,
            "name": run.name,
            "attempt": Source.parse(run.source).attempt + 1,
        }
        return run

    def end(self, status: str = "completed", error: str = "") -> None:
        """End the run if it was made here.

        Args:
            status: As ``Run.finish`` takes it.
            error: What failed, in words.
        """
        ending.forget(self)
        run, self._run = self._run, None
        if run is not None:
            run.finish(status, error, self._finish_seconds)

    def give_up(self, status: str, error: str) -> None:
        """See :class:`publishers.integrations.ultralytics.ending.Unended`."""
        self.end(status, error or _NO_END)


def _default_project() -> str | None:
    """The name of the working folder, unless ``TRAINBUS_PROJECT`` is to say it (None)."""
    return None if os.environ.get("TRAINBUS_PROJECT") else project_of(os.fspath(Path.cwd()))
