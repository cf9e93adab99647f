"""Opening the event log: addresses, and one clear line for what is wrong with them."""

from __future__ import annotations

import builtins
import sqlite3
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from bus.errors import ConfigError, LogError
from bus.eventlog import EventLog, LogRecord, Selection
from bus.eventlog.engine import PAGE_BYTES, parse_url

RECORD = LogRecord("/runs/r/0/1-1-0123456789abcdef/n", 1, "r", "p", "n", "metrics", 1.0, b"x")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@h/d",
        "postgres://u@h/d",
        "postgresql+psycopg://u@h/d",
        "postgresql+psycopg2://u@h/d",
    ],
)
def test_every_postgresql_url_is_brought_to_psycopg_3(url: str) -> None:
    assert str(parse_url(url)) == "postgresql+psycopg://u@h/d"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "malformed"),
        ("no url", "malformed"),
        ("postgresql://h:notaport/d", "malformed"),
        ("mysql://h/d", "mysql is not supported"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite://host/path", "malformed|names no file"),
        ("postgresql://h", "names no database"),
    ],
)
def test_a_wrong_url_is_a_config_error_with_an_example(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"({reason}).*use sqlite:///path"):
        EventLog.open(url)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        EventLog.open("mysql://me:secret@h/d")
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_one_line_and_worth_another_try() -> None:
    with pytest.raises(LogError, match=r"127\.0\.0\.1") as caught:
        EventLog.open("postgresql://me:secret@127.0.0.1:1/d")
    assert caught.value.is_retryable
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_psycopg(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "psycopg":
            raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")
        return real_import(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.split(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_psycopg)
    with pytest.raises(ConfigError, match=r"pip install 'trainbus\[log\]'"):
        EventLog.open("postgresql://u@127.0.0.1:1/d")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"certainly not SQLite\n" * 100)
    with pytest.raises(LogError, match="not a database") as caught:
        EventLog.open(f"sqlite:///{tmp_path / 'log.db'}")
    assert not caught.value.is_retryable


def test_a_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file"):
        EventLog.open(f"sqlite:///{tmp_path / 'file' / 'log.db'}")


def test_who_only_reads_leaves_no_file_behind(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="there is no event log at"):
        EventLog.open(f"sqlite:///{tmp_path / 'deep' / 'log.db'}", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_new_sqlite_log_is_wal_with_large_pages_in_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.db"
    log = EventLog.open(f"sqlite:///{path}")
    with log._engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("page_size", "journal_mode", "synchronous", "wal_autocheckpoint")
        }
    log.close()
    assert pragmas == {
        "page_size": PAGE_BYTES,
        "journal_mode": "wal",
        "synchronous": 2,
        "wal_autocheckpoint": 2000,
    }
    assert stat.S_ISREG(path.stat().st_mode)


def test_a_locked_log_is_worth_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.eventlog.engine.BUSY_TIMEOUT_SECONDS", 0.05)
    path = tmp_path / "log.db"
    log = EventLog.open(f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogError, match="locked") as caught:
        log.append([RECORD], now=1.0)
    assert caught.value.is_retryable
    assert log.count(Selection()) == (0, 0), "readers are not held up"
    other.execute("ROLLBACK")
    other.close()
    assert log.append([RECORD], now=1.0).duplicates == 0
    log.close()


def test_a_full_disk_is_worth_another_try_and_stores_nothing_by_half(tmp_path: Path) -> None:
    log = EventLog.open(f"sqlite:///{tmp_path / 'log.db'}")
    # The pool hands out the one connection again: the limit stays on it.
    with log._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=40")
    large = [
        LogRecord(RECORD.source, n, "r", "p", "n", "metrics", 1.0, bytes(200_000))
        for n in range(1, 30)
    ]
    with pytest.raises(LogError, match="full") as caught:
        log.append(large, now=1.0)
    assert caught.value.is_retryable
    assert log.sources("r") == []
    with log._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    assert str(log.append(large, now=1.0).states[RECORD.source].stored) == "1-29"
    log.close()


def test_a_table_that_is_gone_is_not_worth_another_try(tmp_path: Path) -> None:
    log = EventLog.open(f"sqlite:///{tmp_path / 'log.db'}")
    with log._writer.begin() as connection:
        connection.exec_driver_sql("DROP TABLE events")
    with pytest.raises(LogError, match="no such table") as caught:
        log.append([RECORD], now=1.0)
    assert not caught.value.is_retryable
    log.close()
    with pytest.raises(LogError, match="no event log of trainbus, or a damaged one"):
        EventLog.open(f"sqlite:///{tmp_path / 'log.db'}")
