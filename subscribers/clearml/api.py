"""The connection to ClearML: its SDK's session, one call at a time, without its retries.

The session of the SDK (``clearml.backend_api``, 2.1) reads the configuration, logs in and keeps the
token. Sending is done here, because the SDK's own loop would

- repeat for ever, without a pause, what ends in a TLS error, a broken chunk or a 503;
- keep the old token when it sends again after a 401;
- wait up to 300 s for every part of an answer;
- follow a redirect and lose the body on the way.

Everything blocks; any thread may call.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import clearml.config
import orjson
import requests
from clearml.backend_api import load_config
from clearml.backend_api.session import Request
from clearml.backend_api.session.client.client import StrictSession
from clearml.backend_api.utils import get_http_session_with_retry
from clearml.utilities import requests_toolbelt

from bus.errors import RetryableSinkError
from subscribers.clearml.access import Access
from subscribers.clearml.errors import AnswerError, translate

__all__ = ["Api"]

_log = logging.getLogger(__name__)

_VERSION = "2.13"
"""Of the API: the oldest that has every call the sink makes (server 1.0 of 2021 and later)."""

_CONNECT_SECONDS = 10.0
_OK = 200
_UNAUTHORIZED = 401
_MAX_MESSAGE = 500
_LINES = "application/json-lines"
_UPLOAD_PATIENCE = 10
"""A file server answers once it has written the file: so many times the ordinary timeout."""

_Encoder: Any = requests_toolbelt.MultipartEncoder
"""What the SDK itself streams uploads with; it carries no types."""


class _Session(StrictSession):
    """The SDK's session with a way of sending that ends."""

    _offline_mode = False
    """Whoever makes one wants a server, whatever CLEARML_OFFLINE_MODE says to the SDK."""

    def __init__(self, access: Access) -> None:
        config = load_config(str(Path(clearml.config.__file__).parent))
        self._access = access
        self._http = get_http_session_with_retry(total=0, config=config)
        # It would wait 300 s for every request over 15 kB.
        self._http.request_size_threshold = sys.maxsize
        self._token_lock = threading.Lock()
        super().__init__(
            config=config,
            logger=_log,
            host=access.api_host or None,
            api_key=access.access_key or None,
            secret_key=access.secret_key or None,
            http_retries_config={"total": 0},
        )

    def _send_request(
        self,
        service: str,
        action: str,
        version: str | None = None,
        method: str | None = None,
        headers: dict[Any, Any] | None = None,
        auth: requests.auth.AuthBase | None = None,
        data: Any = None,
        json: dict[Any, Any] | list[Any] | None = None,
        refresh_token_if_unauthorized: bool = True,
        params: dict[Any, Any] | None = None,
    ) -> requests.Response:
        """One request, sent again after a 401 with a new token, and never otherwise."""
        path = f"v{version}/{service}.{action}" if version else f"{service}.{action}"
        sent = dict(headers or {})
        sent |= dict.fromkeys(self._WORKER_HEADER, self.worker)
        sent |= dict.fromkeys(self._CLIENT_HEADER, self.client)

        def send() -> requests.Response:
            return self._http.request(
                method or str(Request.def_method),
                f"{self.host}/{path}",
                headers=sent,
                auth=auth,
                data=data,
                json=json,
                params=params,
                timeout=self.timeout,
                allow_redirects=False,
            )

        answer = send()
        if answer.status_code == _UNAUTHORIZED and refresh_token_if_unauthorized:
            sent["Authorization"] = f"Bearer {self.renewed_token(sent.get('Authorization'))}"
            answer = send()
        if service == "auth" and answer.status_code != _OK:
            # The session would keep no more of it than a text.
            raise _refused(answer)
        return answer

    @property
    def timeout(self) -> tuple[float, float]:
        """Seconds to connect, and to wait for each part of an answer."""
        return min(_CONNECT_SECONDS, self._access.timeout_seconds), self._access.timeout_seconds

    def renewed_token(self, refused: str | None) -> str:
        """A token other than the one that was refused; threads that ask at once log in once."""
        with self._token_lock:
            if refused in {None, f"Bearer {self.raw_token}"}:
                self.refresh_token()
            return str(self.raw_token)

    def bearer(self) -> dict[str, str]:
        """The header that says who asks."""
        with self._token_lock:
            return {"Authorization": f"Bearer {self.token}"}


class Api:
    """Calls of one server. The session is made at the first call: that logs in."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._failed_at = 0.0
        self._failure = ""

    def call(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call an endpoint such as ``tasks.create``; the data of the answer.

        Raises:
            AnswerError: The answer is not 200, or makes no sense.
            requests.RequestException: There was no answer.
            LoginError: The SDK could not log in.
        """
        return self._send(endpoint, orjson.dumps(body), "application/json")

    def create(self, endpoint: str, body: Mapping[str, Any]) -> str:
        """Call an endpoint that creates something; the id of it."""
        found = self.call(endpoint, body).get("id")
        if not isinstance(found, str) or not found:
            raise AnswerError(_OK, 0, f"{endpoint}: the answer holds no id")
        return found

    def find(self, endpoint: str, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Call ``….get_all`` of projects, tasks or models; what it found, hidden ones too."""
        name = endpoint.partition(".")[0]
        found = self.call(endpoint, {**query, "search_hidden": True}).get(name)
        # Taken for nothing, an answer that makes no sense would create things twice.
        if not isinstance(found, list) or not all(
            isinstance(one, dict) and isinstance(one.get("id"), str) for one in found
        ):
            raise AnswerError(_OK, 0, f"{endpoint}: the answer holds no {name}")
        return found

    def add_events(self, lines: Sequence[bytes]) -> dict[str, Any]:
        """``events.add_batch`` with events as JSON, one each; the data of the answer.

        Raises:
            AnswerError: As :meth:`call`.
        """
        return self._send("events.add_batch", b"\n".join(lines), _LINES)

    def upload(self, local: Path, path: str, host: str = "") -> str:
        """Send a file to the file server under a path; the URL it has there.

        The file is streamed: as the SDK does it, one multipart field whose name is the path.

        Args:
            local: The file.
            path: Relative, in plain ASCII.
            host: Another http(s) file server than the one of the configuration.
        """
        session = self._connect()
        own = self.files_host
        base = host.rstrip("/") or own
        mine = base == own or base.startswith(f"{own}/")
        with local.open("rb") as file:
            body = _Encoder(fields={path: (path, file, "application/octet-stream")})
            headers = {"Content-Type": body.content_type, **(session.bearer() if mine else {})}
            connect, read = session.timeout
            answer = session._http.post(
                base,
                data=body,
                headers=headers,
                timeout=(connect, read * _UPLOAD_PATIENCE),
                allow_redirects=False,
            )
        if answer.status_code == _UNAUTHORIZED and mine:
            # The next attempt comes with a new token.
            session.renewed_token(headers["Authorization"])
        if answer.status_code != _OK:
            raise _refused(answer)
        return f"{base}/{quote(path)}"

    @property
    def files_host(self) -> str:
        """The file server."""
        session = self._connect()
        return str(self._access.files_host or session.get_files_server_host(session.config))

    @property
    def web_host(self) -> str | None:
        """Where a person looks; None when nobody said."""
        session = self._connect()
        try:
            return str(self._access.web_host or session.get_app_server_host(session.config))
        except ValueError:
            return None

    def close(self) -> None:
        """Give up idle connections."""
        if self._session is not None:
            self._session._http.close()

    def _send(self, endpoint: str, data: bytes, content_type: str) -> dict[str, Any]:
        session = self._connect()
        service, _, action = endpoint.partition(".")
        answer = session._send_request(
            service,
            action,
            version=_VERSION,
            headers={"Content-Type": content_type, **session.bearer()},
            data=data,
        )
        if answer.status_code != _OK:
            raise _refused(answer)
        try:
            found = orjson.loads(answer.content)["data"]
        except (ValueError, KeyError, TypeError):
            raise AnswerError(_OK, 0, f"{endpoint}: the answer is not ClearML's") from None
        if not isinstance(found, dict):
            raise AnswerError(_OK, 0, f"{endpoint}: the answer holds no data")
        return found

    def _connect(self) -> _Session:
        asked_at = time.monotonic()
        with self._lock:
            if self._session is None:
                if self._failed_at > asked_at:
                    # Another thread has just tried: a server that hangs costs one timeout.
                    raise RetryableSinkError(self._failure)
                try:
                    self._session = _Session(self._access)
                except Exception as error:
                    # Whatever it is, it is for a person or time to mend, and no event's fault.
                    failure = translate(error, "connecting to ClearML")
                    if not isinstance(failure, RetryableSinkError):
                        failure = RetryableSinkError(f"{failure}: check CLEARML_API_HOST")
                    self._failed_at, self._failure = time.monotonic(), str(failure)
                    raise failure from error
            return self._session


def _refused(answer: requests.Response) -> AnswerError:
    subcode, message = 0, answer.reason or ""
    try:
        meta = orjson.loads(answer.content)["meta"]
        subcode, message = int(meta["result_subcode"] or 0), str(meta["result_msg"])
    except (ValueError, KeyError, TypeError):
        message = " ".join(answer.text.split()) or message
    if answer.is_redirect:
        message = f"redirected to {answer.headers['Location']}: use that address"
    return AnswerError(answer.status_code, subcode, message[:_MAX_MESSAGE], answer.headers)
