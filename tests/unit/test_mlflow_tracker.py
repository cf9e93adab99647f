"""Where the MLflow sink writes to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from bus.config import Settings
from bus.errors import ConfigError
from bus.sinks import load_sink
from subscribers.mlflow.tracker import Address, prepare_process


def address(tmp_path: Path, **environ: str) -> Address:
    environ["TRAINBUS_HOME"] = str(tmp_path)
    return Address.from_environment(Settings.from_environment(environ), environ)


def test_the_default_is_a_file_in_the_data_folder_with_artifacts_beside_it(tmp_path: Path) -> None:
    found = address(tmp_path)
    assert found.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert found.artifact_root == (tmp_path / "mlartifacts").as_uri()
    assert found.artifact_location("a/b") != found.artifact_location("a-b")
    assert found.web is None


def test_artifacts_lie_beside_a_sqlite_file_unless_said_otherwise(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'x' / 'runs.db'}"
    assert address(tmp_path, MLFLOW_TRACKING_URI=uri).artifact_root == (
        (tmp_path / "x" / "mlartifacts").as_uri()
    )
    said = address(tmp_path, MLFLOW_TRACKING_URI=uri, MLFLOW_DEFAULT_ARTIFACT_ROOT="s3://b/x/")
    assert said.artifact_root == "s3://b/x"
    postgres = address(tmp_path, MLFLOW_TRACKING_URI="postgresql+psycopg2://h/db")
    assert postgres.artifact_root == (tmp_path / "mlartifacts").as_uri()


def test_a_server_decides_about_artifacts_and_its_address_is_shown_without_secrets(
    tmp_path: Path,
) -> None:
    found = address(tmp_path, MLFLOW_TRACKING_URI="https://me:secret@host:8443/mlflow/")
    assert found.artifact_location("p") is None
    assert found.web == "https://host:8443/mlflow"


@pytest.mark.parametrize("uri", ["./mlruns", "file:///x", "ftp://x", "mlruns"])
def test_an_address_that_cannot_be_used_is_a_wrong_setting(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        address(tmp_path, MLFLOW_TRACKING_URI=uri)


def test_the_process_leaves_retries_to_the_worker_unless_the_user_said_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden\n")
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        # Set first, so that what the call sets is undone after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    prepare_process(
        {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_TRACKING_PASSWORD_FILE": str(secret)}
    )
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "5"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "hidden"


def test_the_sink_is_found_by_its_name(tmp_path: Path) -> None:
    environ = {"TRAINBUS_HOME": str(tmp_path)}
    sink = load_sink("mlflow", Settings.from_environment(environ), environ)
    assert sink.name == "mlflow"
    assert "metrics" in sink.kinds
    asyncio.run(sink.close())
