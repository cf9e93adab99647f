"""Numbers, sizes and times of the command line, and commands that cannot be loaded."""

from __future__ import annotations

from datetime import datetime

import pytest

from bus.cli.common import format_bytes, format_count, format_ids, parse_kinds, parse_time
from bus.cli.main import main
from bus.errors import BrokerError, ConfigError


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (63_200, "63.2 kB"),
        (4_200_000, "4.2 MB"),
        (5e9, "5.0 GB"),
        (7.5e15, "7500.0 TB"),
    ],
)
def test_sizes_are_in_powers_of_1000(size: float, text: str) -> None:
    assert format_bytes(size) == text


def test_counts_have_their_thousands_apart() -> None:
    assert format_count(1234567) == "1,234,567"


def test_ids_are_ranges_and_a_long_list_is_cut() -> None:
    assert format_ids([(3, 3), (7, 9)]) == "3, 7-9"
    assert format_ids([(n, n) for n in range(1, 40, 2)]).endswith("21, 23 and 8 more ranges")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 9_910.0),
        ("15m", 9_100.0),
        ("2h ago", 2_800.0),
        ("1.5h", 4_600.0),
        ("1767225600", 1_767_225_600.0),
        ("1767225600.5", 1_767_225_600.5),
        ("2026-01-01T00:00:00Z", 1_767_225_600.0),
        ("2026-01-01T01:00+01:00", 1_767_225_600.0),
        ("2026-01-01", datetime(2026, 1, 1).timestamp()),  # noqa: DTZ001  # local time is meant
    ],
)
def test_times_are_read_in_every_form(text: str, seconds: float) -> None:
    assert parse_time(text, now=10_000.0) == seconds


def test_no_time_is_no_restriction() -> None:
    assert parse_time(None) is None


@pytest.mark.parametrize("text", ["", "soon", "5 parsecs", "2026-13-01", "-5m"])
def test_other_times_are_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time"):
        parse_time(text)


def test_kinds_are_checked() -> None:
    assert parse_kinds(None) is None
    assert parse_kinds(["metrics", "params"]) == frozenset({"metrics", "params"})
    with pytest.raises(ConfigError, match="no kind 'metric'"):
        parse_kinds(["metric"])


class Entry:
    """An entry point that does what the test says."""

    def __init__(self, name: str, error: Exception | None = None, is_broken: bool = False) -> None:
        self.name = name
        self.error = error
        self.is_broken = is_broken

    def load(self) -> object:
        if self.error is not None and not self.is_broken:
            raise self.error

        def command() -> None:
            """Do something."""
            if self.error is not None:
                raise self.error

        return command


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], entry: Entry, *args: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(
        "bus.cli.main.entry_points",
        lambda name=entry.name, **_: [entry] if name == entry.name else [],
    )
    with pytest.raises(SystemExit) as ended:
        main(args)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError(name="sqlalchemy.orm"), "pip install 'trainbus[log]'"),
        (ModuleNotFoundError(name="strange"), "pip install strange"),
        (ModuleNotFoundError(name="bus.cli.gone"), "bus.cli.gone is missing"),
        (ConfigError("the event log needs sqlalchemy"), "the event log needs sqlalchemy"),
    ],
)
def test_a_command_that_cannot_be_loaded_says_why_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    reason: str,
) -> None:
    status, out, err = call(monkeypatch, capsys, Entry("log", error), "log", "ls", "--json")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert reason in err
    status, out, _ = call(monkeypatch, capsys, Entry("log", error), "--help")
    assert (status, "not available" in out) == (0, True)


@pytest.mark.parametrize(
    ("error", "status"), [(ConfigError("wrong\nsetting"), 2), (BrokerError("it is down"), 1)]
)
def test_an_error_is_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
) -> None:
    ended, out, err = call(monkeypatch, capsys, Entry("x", error, is_broken=True), "x")
    assert (ended, out) == (status, "")
    assert err == f"trainbus: {' '.join(str(error).split())}\n"


def test_an_unknown_command_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = call(monkeypatch, capsys, Entry("x"), "nope")
    assert (status, "nope" in err) == (2, True)
