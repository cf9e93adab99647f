"""Errors of SQLAlchemy and the drivers, as LogError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bus.errors import LogError

__all__ = ["is_retryable", "translated"]

_SQLITE_RETRYABLE = {5, 6, 10, 13}
"""SQLITE_BUSY, LOCKED, IOERR, FULL: https://www.sqlite.org/rescode.html."""

_POSTGRES_RETRYABLE = ("08", "40", "53", "55", "57", "58", "25006")
"""Connection, rollback, resources, lock, operator, system; read-only as a standby is.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

# A refused login has no code: libpq reports it as text only.
_POSTGRES_REFUSED = (
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "no password supplied",
    "could not translate host name",
)


def is_retryable(error: SQLAlchemyError) -> bool:
    """Whether the same call may succeed later."""
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if isinstance(code, int):
        # Extended codes keep the plain one in their low byte.
        return code & 0xFF in _SQLITE_RETRYABLE
    state = getattr(error.orig, "sqlstate", None)
    if isinstance(state, str):
        return state.startswith(_POSTGRES_RETRYABLE)
    if error.connection_invalidated:
        return True
    is_operational = type(error.orig).__name__ == "OperationalError"
    return is_operational and not any(text in str(error.orig) for text in _POSTGRES_REFUSED)


def describe(error: SQLAlchemyError) -> str:
    """The cause in one line, without the statement and its parameters."""
    cause: object = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(cause).split())[:500]


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn every error of the database into a LogError that names ``place``."""
    try:
        yield
    except SQLAlchemyError as error:
        message = f"event log {place}: {describe(error)}"
        raise LogError(message, is_retryable=is_retryable(error)) from error
