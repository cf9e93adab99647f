"""MLflow's SQLite file is made whole or not at all, whoever is killed while it is made."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from mlflow.tracking import MlflowClient

from subscribers.mlflow.database import make_sqlite
from tests.fixtures.processes import Processes, wait_until

MAKE = """
import sys
from pathlib import Path
from subscribers.mlflow.database import make_sqlite
make_sqlite(Path(sys.argv[1]), "file:///artifacts")
"""


def tables(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in rows}


def test_a_process_killed_while_it_makes_the_tables_leaves_nothing_in_the_way(
    processes: Processes, tmp_path: Path
) -> None:
    file, draft = tmp_path / "home" / "a b?.db", tmp_path / "home" / ".a b?.db.new"
    killed = processes.python("-c", MAKE, str(file))
    wait_until(lambda: draft.exists() and "experiments" in tables(draft), 60, "the first tables")
    killed.kill()
    assert not file.exists()
    make_sqlite(file, "file:///artifacts")
    assert not draft.exists()
    uri = f"sqlite:///{str(file).replace('?', '%3F')}"
    [default] = MlflowClient(uri, uri).search_experiments()
    assert default.artifact_location == "file:///artifacts/0"
    assert not {name for name in tables(file) if name.startswith("_alembic")}


def test_several_who_make_it_at_once_get_one(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    makers = [threading.Thread(target=make_sqlite, args=(file, "file:///a")) for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert "runs" in tables(file)


def test_a_database_that_is_there_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"somebody's")
    make_sqlite(file, "file:///a")
    assert file.read_bytes() == b"somebody's"
