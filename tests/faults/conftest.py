"""A road for each fault test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bus.broker import EmbeddedBroker
from tests.faults.road import Road
from tests.fixtures.mlflow import MlflowServer
from tests.fixtures.processes import Processes


@pytest.fixture(params=["mosquitto-sqlite-server", "nats-postgresql-file"])
def road(request: pytest.FixtureRequest, tmp_path: Path, processes: Processes) -> Iterator[Road]:
    """A road over each broker and each database, to an MLflow server and to MLflow's own file."""
    engine, database, _ = request.param.split("-")
    broker: EmbeddedBroker = request.getfixturevalue(engine)
    built = Road(tmp_path, broker, processes)
    if database == "postgresql":
        built.log_url = request.getfixturevalue("postgres_url")
    else:
        server: MlflowServer = request.getfixturevalue("mlflow_server")
        built.tracking_uri, built.mlflow_db = server.uri, server.folder / "mlflow.db"
    yield built
    built.close()


@pytest.fixture
def mosquitto_road(
    tmp_path: Path, mosquitto: EmbeddedBroker, processes: Processes
) -> Iterator[Road]:
    """A road over Mosquitto, with SQLite everywhere."""
    built = Road(tmp_path, mosquitto, processes)
    yield built
    built.close()


@pytest.fixture
def postgres_road(
    tmp_path: Path, mosquitto: EmbeddedBroker, processes: Processes, postgres_url: str
) -> Iterator[Road]:
    """A road over Mosquitto with the event log on PostgreSQL."""
    built = Road(tmp_path, mosquitto, processes, log_url=postgres_url)
    yield built
    built.close()


@pytest.fixture
def server_road(
    tmp_path: Path,
    mosquitto: EmbeddedBroker,
    processes: Processes,
    killable_mlflow_server: MlflowServer,
) -> Iterator[Road]:
    """A road over Mosquitto to a real MLflow server that the test may kill."""
    server = killable_mlflow_server
    built = Road(
        tmp_path,
        mosquitto,
        processes,
        tracking_uri=server.uri,
        mlflow_db=server.folder / "mlflow.db",
    )
    yield built
    built.close()


def _forgetful(mosquitto: EmbeddedBroker, limit: str) -> None:
    """Run Mosquitto with a limit on its queues, above which it drops and still acknowledges."""
    mosquitto.stop()
    lossless = mosquitto._engine
    mosquitto._engine = replace(
        lossless,
        settings=lambda port, data: lossless.settings(port, data).replace(
            "max_queued_messages 0\n", limit
        ),
    )
    mosquitto.start()
    assert "max_queued_messages 0" not in (mosquitto.folder / "mosquitto.conf").read_text()


@pytest.fixture
def short_queue_road(
    tmp_path: Path, mosquitto: EmbeddedBroker, processes: Processes
) -> Iterator[Road]:
    """A road over a Mosquitto that silently drops what is above twenty queued messages."""
    _forgetful(mosquitto, "max_queued_messages 20\n")
    built = Road(tmp_path, mosquitto, processes)
    yield built
    built.close()


@pytest.fixture
def default_queue_road(
    tmp_path: Path, mosquitto: EmbeddedBroker, processes: Processes
) -> Iterator[Road]:
    """A road over a Mosquitto with its default limit: a thousand queued messages."""
    _forgetful(mosquitto, "")
    built = Road(tmp_path, mosquitto, processes)
    yield built
    built.close()
