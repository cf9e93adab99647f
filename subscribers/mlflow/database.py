"""A new SQLite database of MLflow's, made so that a kill leaves either none or a whole one.

MLflow makes its tables by dozens of migrations, on SQLite not in one transaction. A process killed
in between leaves a database that no later start can use ("table _alembic_tmp_… already exists"),
and everything for it would be retried without end. So the tables are made in a file beside it,
which gets its name when it is whole.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

__all__ = ["make_sqlite"]


def make_sqlite(file: Path, artifact_root: str) -> None:
    """Make the database unless it is there. Blocks for seconds; other processes wait for it.

    Args:
        file: Of the database; its folder is made too.
        artifact_root: URL for the artifacts of MLflow's default experiment.

    Raises:
        OSError: The folder cannot be written.
    """
    if _is_there(file):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_there(file):
            return
        draft = file.with_name(f".{file.name}.new")
        for rest in (draft, draft.with_name(f"{draft.name}-journal")):
            rest.unlink(missing_ok=True)
        _make_tables(draft, artifact_root)
        if file.exists():  # empty
            file.unlink()
        with suppress(FileExistsError):  # an MLflow of somebody's was quicker
            os.link(draft, file)
        draft.unlink()


def _is_there(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _make_tables(file: Path, artifact_root: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # Three slashes and an absolute path, in which a question mark would begin the options.
    store = SqlAlchemyStore(f"sqlite:///{quote(str(file))}", artifact_root)
    store.engine.dispose()
