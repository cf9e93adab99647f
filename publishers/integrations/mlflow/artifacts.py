"""MLflow's artifact repository of the plugin: what is logged goes to the bus."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from publishers.integrations.mlflow import names
from publishers.integrations.mlflow.files import log_files
from publishers.integrations.mlflow.kept import GoneError
from publishers.integrations.mlflow.ledger import Ledger, current
from publishers.integrations.mlflow.unsupported import invalid, unknown, unsupported

__all__ = ["TrainbusArtifactRepository"]


class TrainbusArtifactRepository(ArtifactRepository):
    """The artifacts of one run or logged model.

    Reading gives what this process has logged, from its own copies.
    """

    def __init__(
        self,
        artifact_uri: str,
        tracking_uri: str | None = None,
        registry_uri: str | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        place = names.place_of(artifact_uri)
        if place is None:
            raise invalid(f"{artifact_uri!r} is no address of artifacts on the bus")
        self._place = place
        self._ledger = ledger or current()

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Log a file into the folder ``artifact_path``."""
        source = Path(local_file)
        log_files(self._ledger, self._place.owner, source, self._at(artifact_path, source.name))

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Log what is in a folder into the folder ``artifact_path``."""
        source = Path(local_dir)
        if not source.is_dir():
            raise invalid(f"{local_dir!r} is no folder")
        log_files(self._ledger, self._place.owner, source, self._at(artifact_path))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """What this process has logged directly under a path."""
        base, below = self._place.path, self._at(path)
        prefix = f"{below}/" if below else ""
        found: dict[str, FileInfo] = {}
        for name, copy in self._ledger.kept.files(self._place.owner).items():
            if not name.startswith(prefix):
                continue
            first, _, rest = name.removeprefix(prefix).partition("/")
            shown = (prefix + first).removeprefix(f"{base}/" if base else "")
            size = None if rest or copy is None or not copy.exists() else copy.stat().st_size
            found[shown] = FileInfo(shown, bool(rest), size)
        return [found[shown] for shown in sorted(found)]

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Raises: what is published cannot be taken back."""
        raise unsupported("delete_artifacts")

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        path = self._at(remote_file_path)
        try:
            copy = self._ledger.kept.find(self._place.owner, path)
        except KeyError:
            raise unknown(f"artifact {path!r} of {self._place.owner}") from None
        except GoneError:
            raise unsupported(
                f"reading artifact {path!r} again once its copy is gone (TRAINBUS_MLFLOW_KEEP is "
                "the number of bytes that are kept)"
            ) from None
        shutil.copyfile(copy, local_path)

    def _at(self, *paths: str | None) -> str:
        try:
            return names.join(self._place.path, *paths)
        except ValueError as error:
            raise invalid(str(error)) from error
