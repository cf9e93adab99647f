"""Every error trainbus raises, in one tree.

    TrainbusError
    ├── ConfigError          a setting or an argument is wrong; the message names it and the way out
    ├── EventError           an event breaks the contract; ``field`` names where
    ├── JournalError         the spool cannot be read or written
    ├── LogError             the event log cannot be reached or refuses
    ├── BrokerError          the broker cannot be reached, started or refuses
    ├── StoreError           the artifact store cannot be used, or does not hold what was asked for
    └── SinkError            a tracker did not take what it was given
        ├── RetryableSinkError   it may take it later
        ├── PermanentSinkError   it never will
        └── MarksMovedError      somebody else has written to the run since its marks were read

Errors of other libraries are translated where they enter: callers catch only these.
"""

from __future__ import annotations

__all__ = [
    "BrokerError",
    "ConfigError",
    "EventError",
    "JournalError",
    "LogError",
    "MarksMovedError",
    "PermanentSinkError",
    "RetryableSinkError",
    "SinkError",
    "StoreError",
    "TrainbusError",
]


class TrainbusError(Exception):
    """Base of all errors of trainbus."""


class ConfigError(TrainbusError):
    """A setting, an argument or the environment is wrong. Commands exit with status 2."""


class EventError(TrainbusError):
    """An event, a topic or a name breaks the contract of :mod:`bus.events`.

    Attributes:
        field: Where, as a path such as ``data.tables[0].rows[3]`` or ``topic``.
        reason: What is wrong there, in one line.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class JournalError(TrainbusError):
    """The spool or a journal in it cannot be used."""


class LogError(TrainbusError):
    """The event log cannot be reached, or what it holds is not ours.

    Attributes:
        is_retryable: The same call may succeed later: the database is locked, away or full.
    """

    def __init__(self, message: str, is_retryable: bool = False) -> None:
        super().__init__(message)
        self.is_retryable = is_retryable


class BrokerError(TrainbusError):
    """The MQTT broker cannot be reached, started, or refused a request.

    Attributes:
        is_refusal: The broker answered, and does not allow it.
    """

    def __init__(self, message: str, *, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.is_refusal = is_refusal


class StoreError(TrainbusError):
    """The artifact store cannot be reached, or does not hold what was asked for.

    Attributes:
        is_missing: The file or blob is not there; trying again will not bring it back.
        is_damaged: The bytes are not those the checksum was taken of.
    """

    def __init__(self, message: str, *, is_missing: bool = False, is_damaged: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing
        self.is_damaged = is_damaged


class SinkError(TrainbusError):
    """A tracker did not accept events."""


class RetryableSinkError(SinkError):
    """The tracker may accept the same events later: it is down, slow, or asks for a pause.

    Attributes:
        retry_after_seconds: The pause the tracker asked for; None when it named none.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class PermanentSinkError(SinkError):
    """The tracker will never accept these events; they become dead letters."""


class MarksMovedError(SinkError):
    """The run holds other applied marks than the worker knows: another worker wrote to it.

    Raised by sinks that compare the marks when they write. Nothing was written; the worker reads
    the marks again and goes on from them.
    """
