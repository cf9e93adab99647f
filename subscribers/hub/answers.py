"""What an answer over HTTP means. Pure.

| answer                                       | becomes                                          |
|----------------------------------------------|--------------------------------------------------|
| 2xx with a JSON object                       | the object                                       |
| 2xx with anything else                       | RetryableSinkError: something else answers there |
| 401, 403                                     | RetryableSinkError (1)                           |
| 3xx, 404 that is no JSON object              | RetryableSinkError (1): not the right address    |
| 408, 425, 429, 5xx                           | RetryableSinkError, with the pause it asks for   |
| any other                                    | RefusedError, a PermanentSinkError               |

(1) A wrong key or address is for a person to set right; it must not turn all that waits into dead
letters. Redirects are not followed: the key is for one host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from bus.errors import PermanentSinkError, RetryableSinkError, SinkError
from bus.retryafter import retry_after_seconds
from subscribers.hub.keys import ApiKey

__all__ = ["Answer", "Place", "RefusedError", "one_line"]

_RETRYABLE = {408, 425, 429}
_UNAUTHORIZED = {401, 403}
_NOT_FOUND = 404
_SHOWN_CHARACTERS = 300


class RefusedError(PermanentSinkError):
    """The service does not want what it was sent.

    Attributes:
        status: HTTP status of its answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Place:
    """A service as messages name it.

    Attributes:
        service: What people call it.
        address: Its base URL.
        variable: Which sets that.
    """

    service: str
    address: str
    variable: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        status: HTTP status.
        headers: Looked up without regard to case.
        raw: The body, as much as was read of it.
    """

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def is_success(self) -> bool:
        """The request was carried out."""
        return 200 <= self.status < 300

    def json(self) -> dict[str, Any] | None:
        """The JSON object in the body; None when it is none."""
        try:
            found = orjson.loads(self.raw)
        except orjson.JSONDecodeError:
            return None
        return found if isinstance(found, dict) else None

    def result(self, doing: str, place: Place, key: ApiKey | None, now: float) -> dict[str, Any]:
        """The object that a request of the service's API brings.

        Args:
            doing: What was asked for, for the message.
            place: Who was asked.
            key: Which was sent.
            now: Unix seconds.

        Raises:
            RetryableSinkError: See the top of this module.
            RefusedError: The service refuses what it was asked.
        """
        self.check(doing, place, key, now)
        found = self.json()
        if found is None:
            raise RetryableSinkError(f"{doing}: {_no_service(place)}: its answer is no JSON object")
        return found

    def check(self, doing: str, place: Place, key: ApiKey | None, now: float) -> None:
        """Raise what :meth:`result` raises for any answer but a success."""
        if not self.is_success:
            raise self._error(doing, place, key, now)

    def _error(self, doing: str, place: Place, key: ApiKey | None, now: float) -> SinkError:
        said = self._said()
        text = f"{doing}: {place.service} answers {self.status}" + (f": {said}" if said else "")
        if key is not None:
            text = key.hide(text)
        if self.status in _UNAUTHORIZED:
            if key is None:
                return RetryableSinkError(text)
            return RetryableSinkError(f"{place.service} refuses {key}: set {key.source} ({text})")
        if self.status in _RETRYABLE or self.status >= 500:
            return RetryableSinkError(text, retry_after_seconds(self.headers, now))
        if self.status < 400 or (self.status == _NOT_FOUND and self.json() is None):
            return RetryableSinkError(f"{_no_service(place)} ({text})")
        return RefusedError(text, self.status)

    def _said(self) -> str:
        found = self.json()
        if found is None:
            return one_line(self.raw.decode("utf-8", errors="replace"))
        said = found.get("message") or found.get("error") or found.get("detail") or found
        return one_line(said if isinstance(said, str) else orjson.dumps(said).decode())


def _no_service(place: Place) -> str:
    return f"{place.service} is not what answers at {place.address}: check {place.variable}"


def one_line(text: str) -> str:
    """A text of others for a message: short, in one line."""
    return " ".join(text.split())[:_SHOWN_CHARACTERS]
