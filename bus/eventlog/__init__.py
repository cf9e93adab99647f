"""The event log: SQL tables that hold every event, and the source of truth.

Layout and invariants are described in :mod:`bus.eventlog.log`. SQLAlchemy is imported when
:class:`EventLog` is first asked for: who only passes records around does not need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bus.errors import ConfigError
from bus.eventlog.records import (
    AppendResult,
    DeadLetter,
    Group,
    LoggedEvent,
    LogRecord,
    Loss,
    RunCount,
    RunSummary,
    RunUnderWay,
    Selection,
    SourceState,
)

if TYPE_CHECKING:
    from bus.eventlog.log import EventLog

__all__ = [
    "AppendResult",
    "DeadLetter",
    "EventLog",
    "Group",
    "LogRecord",
    "LoggedEvent",
    "Loss",
    "RunCount",
    "RunSummary",
    "RunUnderWay",
    "Selection",
    "SourceState",
]


def __getattr__(name: str) -> Any:
    if name != "EventLog":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from bus.eventlog.log import EventLog
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the event log needs {error.name}: pip install 'trainbus[log]'"
        ) from error
    return EventLog
