"""ClearML's errors as sink errors.

How ClearML really fails (clearml-server 2.x, SDK 2.1): an answer has an HTTP status, the same as
``meta.result_code``, and a subcode that says more. ``events.add_batch`` answers 200 even when it
refused some events, and 400/131 when it refused all. A value that Elasticsearch cannot index makes
the whole call a 500/100, as a broken database does: so that one is tried a bounded number of times.
The SDK wraps whatever goes wrong while it logs in, a refused connection too, in a ``LoginError``.

| what                                          | becomes                                    |
|-----------------------------------------------|--------------------------------------------|
| no connection, timeout, 408, 429, 5xx         | RetryableSinkError, with its Retry-After   |
| 401, 403, a login that is refused             | RetryableSinkError (1)                     |
| 404, a redirect, an answer that is no JSON    | RetryableSinkError (1)                     |
| 400/121: the status changed at the same time  | RetryableSinkError                         |
| disk full, artifact store out of reach        | RetryableSinkError                         |
| 400, 413, a blob gone                         | PermanentSinkError                         |
| 500/100, anything else                        | SinkError: tried a bounded number of times |

(1) Wrong keys or a wrong address are for a person to set right; they must not turn all that waits
into dead letters.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Mapping

import requests
from clearml.backend_api.session.client.client import APIError
from clearml.backend_api.session.session import LoginError

from bus.errors import ConfigError, PermanentSinkError, RetryableSinkError, SinkError, StoreError
from bus.retryafter import retry_after_seconds

__all__ = ["AnswerError", "translate"]

_RETRYABLE_STATUS = {408, 425, 429}
_REFUSED_STATUS = {401, 403}
_BAD_REQUEST = 400
_NOT_FOUND = 404
_TOO_LARGE = 413
_STATUS_RACE = 121
_DATA_ERROR = 100

_FULL_OR_READ_ONLY = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES}
_USERINFO = re.compile(r"://[^/@\s'\"]*@")

_CREDENTIALS = (
    "ClearML refuses the keys: check CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or "
    "clearml.conf"
)
_ADDRESS = "nothing of ClearML answers there: check CLEARML_API_HOST and CLEARML_FILES_HOST"


class AnswerError(Exception):
    """An answer that is not what was hoped for.

    Attributes:
        status: Of HTTP; 200 when the answer itself made no sense.
        subcode: ClearML's own code beside it.
    """

    def __init__(
        self, status: int, subcode: int, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        code = f"{status}/{subcode}" if subcode else str(status)
        super().__init__(f"{code}: {message}")
        self.status, self.subcode = status, subcode
        self.headers = headers or {}


def translate(error: Exception, doing: str) -> SinkError | ConfigError:
    """The error to raise instead of one of ClearML, of requests, of the store or of the system.

    Args:
        error: What was raised.
        doing: What was being done, for the message: "writing events".
    """
    if isinstance(error, SinkError | ConfigError):
        return error
    if isinstance(error, LoginError):
        return _from_login(error, doing)
    text = f"{doing}: {_one_line(error)}"
    if isinstance(error, AnswerError):
        return _from_answer(error, text)
    if isinstance(error, APIError):
        return _from_answer(AnswerError(error.code or 500, error.subcode or 0, text), text)
    if isinstance(error, StoreError):
        return _from_store(error, text)
    if isinstance(error, requests.RequestException | TimeoutError | ConnectionError):
        return RetryableSinkError(text)
    if isinstance(error, OSError) and error.errno in _FULL_OR_READ_ONLY:
        return RetryableSinkError(text)
    return SinkError(text)


def _from_answer(error: AnswerError, text: str) -> SinkError:
    status = error.status
    if status in _REFUSED_STATUS:
        return RetryableSinkError(f"{_CREDENTIALS} ({text})")
    if status == _BAD_REQUEST:
        if error.subcode == _STATUS_RACE:
            return RetryableSinkError(text)
        return PermanentSinkError(text)
    if status == _TOO_LARGE:
        return PermanentSinkError(text)
    if status == _NOT_FOUND or status < _BAD_REQUEST:
        return RetryableSinkError(f"{_ADDRESS} ({text})")
    if (status, error.subcode) == (500, _DATA_ERROR):
        return SinkError(text)
    if status in _RETRYABLE_STATUS or status >= 500:
        return RetryableSinkError(text, retry_after_seconds(error.headers, time.time()))
    return SinkError(text)


def _from_login(error: LoginError, doing: str) -> SinkError | ConfigError:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, Exception):
        return translate(cause, f"{doing}: logging in")
    return RetryableSinkError(f"{_CREDENTIALS} ({doing}: {_one_line(error)})")


def _from_store(error: StoreError, text: str) -> SinkError:
    if error.is_missing:
        return PermanentSinkError(f"{text}; the artifact store no longer has it")
    # Damaged bytes may be a transfer cut short, and may be for ever: a bounded number of times.
    return SinkError(text) if error.is_damaged else RetryableSinkError(text)


def _one_line(error: Exception) -> str:
    text = _USERINFO.sub("://", " ".join(str(error).split()))
    return text[:1000] if text else type(error).__name__
