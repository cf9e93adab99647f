"""The connection to MLflow: where it is, one client, and threads for its blocking calls."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from mlflow.tracking import MlflowClient

from bus.config import Settings, read_variable
from bus.errors import ConfigError
from subscribers.mlflow.database import make_sqlite
from subscribers.mlflow.errors import translate
from subscribers.mlflow.names import level
from subscribers.threads import CallThreads

__all__ = ["Address", "Tracker", "prepare_process"]

_SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")

_DEFAULTS = {
    # Retries are the worker's: the client's own would go on for minutes unseen.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    # A server that accepts and never answers must not hold a thread for long. A call that is cut
    # off is sent again and costs the server three times as much, so this is not tight.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def prepare_process(environ: Mapping[str, str]) -> None:
    """Set what MLflow reads from the process's environment, unless the user set it.

    MLflow takes its credentials, timeouts and retries from ``os.environ`` only.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, environ.get(name) or value)
    for name in _SECRETS:
        secret = read_variable(environ, name)
        if secret is not None:
            os.environ[name] = secret


@dataclass(frozen=True, slots=True)
class Address:
    """Where the runs go.

    Attributes:
        uri: The tracking URI.
        artifact_root: URL of the folder for artifacts of new experiments; None to leave it to a
            server.
    """

    uri: str
    artifact_root: str | None = None

    @classmethod
    def from_environment(cls, settings: Settings, environ: Mapping[str, str]) -> Address:
        """``MLFLOW_TRACKING_URI``; by default a SQLite file in the data folder.

        A database is used in process, without a server. Its artifacts go to
        ``MLFLOW_DEFAULT_ARTIFACT_ROOT``; by default to ``mlartifacts`` beside a SQLite file, else
        in the data folder. MLflow's own default would be whatever folder the worker runs in.

        Raises:
            ConfigError: The URI is one the sink cannot write to.
        """
        uri = read_variable(environ, "MLFLOW_TRACKING_URI")
        uri = uri or f"sqlite:///{settings.home / 'mlflow.db'}"
        scheme = uri.partition(":")[0].partition("+")[0]
        if scheme in {"http", "https", "databricks"}:
            return cls(uri)
        if scheme not in {"sqlite", "postgresql", "mysql", "mssql"}:
            raise ConfigError(
                f"MLFLOW_TRACKING_URI={uri!r}: use http(s)://… or a database such as "
                "sqlite:///runs.db; MLflow's file store keeps duplicates"
            )
        root = environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")
        file = _sqlite_file(uri)
        beside = file.parent if file else settings.home
        return cls(uri, (root or (beside / "mlartifacts").as_uri()).rstrip("/"))

    @property
    def web(self) -> str | None:
        """Where a person looks, without credentials; None when there is no server."""
        parts = urlsplit(self.uri)
        if parts.scheme not in {"http", "https"}:
            return None
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))

    def artifact_location(self, experiment: str) -> str | None:
        """The folder for the artifacts of a new experiment; None for the server's own choice."""
        return self.artifact_root and f"{self.artifact_root}/{level(experiment)}"

    def make_database(self) -> None:
        """Make a SQLite file that is not there. Blocks for seconds."""
        file = _sqlite_file(self.uri)
        if file is not None:
            make_sqlite(file, self.artifact_root or (file.parent / "mlartifacts").as_uri())


def _sqlite_file(uri: str) -> Path | None:
    scheme, _, path = uri.partition(":///")
    return Path(unquote(path)).absolute() if scheme == "sqlite" and path else None


class Tracker(CallThreads[MlflowClient]):
    """Runs calls of one MlflowClient in threads and translates their errors.

    The client is made in a thread too, at the first call: on a new database it makes the tables.
    """

    def __init__(self, address: Address) -> None:
        super().__init__("mlflow", translate)
        self.address = address
        self._lock = threading.Lock()
        self._client: MlflowClient | None = None

    def client(self) -> MlflowClient:
        """The client, made when it is first needed."""
        with self._lock:
            if self._client is None:
                self.address.make_database()
                uri = self.address.uri
                self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            return self._client
