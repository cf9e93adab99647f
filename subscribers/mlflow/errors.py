"""MLflow's errors as sink errors.

How MLflow really fails (read in 3.17): over HTTP everything that is not an answer of the server, a
refused connection as well as a 503, is an ``MlflowException`` with INTERNAL_ERROR. An answer with a
JSON body keeps its ``error_code``; another body gives the code of its status. In process, the
database's OperationalError ("database is locked", a lost connection) is TEMPORARILY_UNAVAILABLE,
its other errors BAD_REQUEST, and a bug INTERNAL_ERROR with its cause. Artifact uploads raise
``requests.HTTPError`` for what the client does not count as passing. With retries switched off the
client drops the answer to a 429 or 503, and its Retry-After with it.

| what                                          | becomes                                    |
|-----------------------------------------------|--------------------------------------------|
| no connection, timeout, 408, 429, 5xx, locked | RetryableSinkError                         |
| 401, 403                                      | RetryableSinkError (1)                     |
| 404 without an error of MLflow                | RetryableSinkError (1)                     |
| disk full, artifact store out of reach        | RetryableSinkError                         |
| a refused value, a deleted run, a blob gone   | PermanentSinkError                         |
| anything else                                 | SinkError: tried a bounded number of times |

(1) A wrong password or address is for a person to set right; it must not turn all that waits into
dead letters.
"""

from __future__ import annotations

import errno
import re
import time

import requests
from mlflow.exceptions import MlflowException

from bus.errors import (
    ConfigError,
    PermanentSinkError,
    RetryableSinkError,
    SinkError,
    StoreError,
)
from bus.retryafter import retry_after_seconds

__all__ = ["error_code", "translate"]

_RETRYABLE = {
    "ABORTED",
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "TEMPORARILY_UNAVAILABLE",
}
_REFUSED = {"CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED", "UNAUTHENTICATED"}
_PERMANENT = {
    "INVALID_PARAMETER_VALUE",
    "NOT_IMPLEMENTED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
_RETRYABLE_STATUS = {408, 425, 429}
_TOO_LARGE = 413

_FULL_OR_READ_ONLY = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES}

_STATUS = re.compile(r"failed with error code (\d{3})")
_PASSING = re.compile(
    r"database is locked|QueuePool limit|connection already closed|server closed the connection",
    re.IGNORECASE,
)

_USERINFO = re.compile(r"://[^/@\s'\"]*@")

_CREDENTIALS = (
    "MLflow refuses the credentials: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
    "or MLFLOW_TRACKING_TOKEN"
)
_ADDRESS = "nothing of MLflow answers there: check MLFLOW_TRACKING_URI"


def error_code(error: Exception) -> str:
    """The name of MLflow's error code; empty for other errors."""
    return str(getattr(error, "error_code", ""))


def translate(error: Exception, doing: str) -> SinkError | ConfigError:
    """The error to raise instead of one of MLflow, of requests, of the store or of the system.

    Args:
        error: What was raised.
        doing: What was being done, for the message: "writing metrics".
    """
    if isinstance(error, SinkError | ConfigError):
        return error
    text = f"{doing}: {_one_line(error)}"
    if isinstance(error, StoreError):
        return _from_store(error, text)
    if isinstance(error, MlflowException):
        return _from_mlflow(error, text)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _from_answer(error.response, text)
    if isinstance(error, requests.RequestException | TimeoutError | ConnectionError):
        return RetryableSinkError(text)
    if _PASSING.search(text):
        return RetryableSinkError(text)
    if isinstance(error, OSError) and error.errno in _FULL_OR_READ_ONLY:
        return RetryableSinkError(text)
    return SinkError(text)


def _from_mlflow(error: MlflowException, text: str) -> SinkError:
    code = error_code(error)
    if code in _REFUSED:
        return RetryableSinkError(f"{_CREDENTIALS} ({text})")
    if code == "ENDPOINT_NOT_FOUND":
        return RetryableSinkError(f"{_ADDRESS} ({text})")
    if code in _RETRYABLE or _PASSING.search(text):
        return RetryableSinkError(text)
    if code in _PERMANENT:
        return PermanentSinkError(text)
    if code != "INTERNAL_ERROR":
        return SinkError(text)
    status = _STATUS.search(text)
    if status and int(status[1]) == _TOO_LARGE:
        return PermanentSinkError(text)
    cause = error.__cause__
    if cause is None or isinstance(cause, requests.RequestException | OSError):
        return RetryableSinkError(text)
    # In process only: what the store itself could not handle. It may be the data.
    return SinkError(text)


def _from_answer(answer: requests.Response, text: str) -> SinkError:
    status = answer.status_code
    if status in {401, 403}:
        return RetryableSinkError(f"{_CREDENTIALS} ({text})")
    if status in _RETRYABLE_STATUS or status >= 500:
        return RetryableSinkError(text, retry_after_seconds(answer.headers, time.time()))
    if status == _TOO_LARGE:
        return PermanentSinkError(text)
    return SinkError(text)


def _from_store(error: StoreError, text: str) -> SinkError:
    if error.is_missing:
        return PermanentSinkError(f"{text}; the artifact store no longer has it")
    # Damaged bytes may be a transfer cut short, and may be for ever: a bounded number of times.
    return SinkError(text) if error.is_damaged else RetryableSinkError(text)


def _one_line(error: Exception) -> str:
    # MLflow's messages quote the address, with the password that may stand in it.
    text = _USERINFO.sub("://", " ".join(str(error).split()))
    return text[:1000] if text else type(error).__name__
