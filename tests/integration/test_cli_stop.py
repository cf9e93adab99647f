"""``trainbus stop`` without a bus: what it says and refuses."""

from __future__ import annotations

import socket

import pytest

from tests.fixtures.commands import Command


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TRAINBUS_BROKER", f"mqtt://127.0.0.1:{free.getsockname()[1]}")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("nobody",), 2, "no run 'nobody' in the event log"),
        (("mlp",), 2, "3 runs are called 'mlp'"),
        (("whole", "--wait", "0"), 2, "--wait"),
        (("holes",), 1, "cannot connect to the broker"),
        (("holes", "--project", "digits"), 1, "cannot connect to the broker"),
        (("whole", "--log", "mysql://x/y"), 2, "mysql"),
        (("whole", "--log", "mysql://x/y", "--project", "digits"), 2, "mysql"),
        (("whole", "--log", "sqlite:////nowhere/log.db"), 1, "there is no event log"),
        (("", "--project", "digits"), 2, "is empty"),
    ],
)
def test_what_cannot_be_done_is_said(
    trainbus: Command, arguments: tuple[str, ...], status: int, said: str
) -> None:
    code, out, err = trainbus("stop", *arguments)
    assert said in " ".join(err.split())
    assert (code, out) == (status, "")


def test_without_a_log_the_project_is_asked_for(
    trainbus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINBUS_LOG", "sqlite:////nowhere/log.db")
    code, _, err = trainbus("stop", "r1")
    assert code == 1
    assert "or give the run's id and its --project" in err
    code, _, err = trainbus("stop", "r1", "--project", "p")
    assert code == 1
    assert "note: the event log is not asked: there is no event log" in err
    assert "cannot connect to the broker" in err
