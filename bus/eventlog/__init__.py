"""The event log: SQL tables that hold every event, and the source of truth.

Layout and invariants are described in :mod:`bus.eventlog.log`.
"""

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
    Selection,
    SourceState,
)

try:
    from bus.eventlog.log import EventLog
except ModuleNotFoundError as error:
    raise ConfigError(f"the event log needs {error.name}: pip install 'trainbus[log]'") from error

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
    "Selection",
    "SourceState",
]
