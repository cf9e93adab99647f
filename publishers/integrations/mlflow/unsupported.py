"""Methods that have no place on a bus raise, and say what to use instead.

MLflow's base classes do not insist on being overridden: a method that is missing returns None, and
a later MLflow has more of them. :func:`refuse_the_rest` looks at the MLflow that is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NoReturn, TypeVar

from mlflow.exceptions import MlflowException, MlflowNotImplementedException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST

from publishers.integrations.mlflow.names import TRACKING_URI

__all__ = ["invalid", "refuse_the_rest", "unknown", "unsupported"]

_ASK = "the tracking server that the mlflow worker writes to, MlflowClient(tracking_uri=…)"

_C = TypeVar("_C", bound=type)


def unsupported(what: str, instead: str = "") -> MlflowException:
    """The error of a call that cannot work."""
    way_out = instead or f"use {_ASK}"
    return MlflowNotImplementedException(
        f"{what} does not work with MLFLOW_TRACKING_URI={TRACKING_URI}, which only publishes: "
        f"{way_out}"
    )


def unknown(what: str, instead: str = "") -> MlflowException:
    """The error of a question about something that this process has not made."""
    return MlflowException(
        f"{what} was not made by this process, and nobody else can be asked with "
        f"MLFLOW_TRACKING_URI={TRACKING_URI}; {instead or f'ask {_ASK}'}",
        error_code=RESOURCE_DOES_NOT_EXIST,
    )


def invalid(message: str) -> MlflowException:
    """The error of an argument that MLflow would not take either."""
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


def refuse_the_rest(base: type, keeps: Collection[str]) -> Callable[[_C], _C]:
    """Let every method of ``base`` that a class does not define raise.

    Args:
        base: Of MLflow.
        keeps: Methods of ``base`` that work as they are.
    """

    def fill(cls: _C) -> _C:
        for name in dir(base):
            if name.startswith("_") or name in keeps:
                continue
            own, theirs = getattr(cls, name), getattr(base, name)
            if own is theirs and callable(theirs):
                setattr(cls, name, _refusal(name))
        return cls

    return fill


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refuse(self: object, *arguments: Any, **named: Any) -> NoReturn:
        raise unsupported(name)

    refuse.__name__ = name
    refuse.__doc__ = "Raises: it has no place on a bus."
    return refuse
