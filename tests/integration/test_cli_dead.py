"""``trainbus dead``, ``group`` and ``status`` without a bus: what they say and refuse."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import orjson
import pytest

from bus.eventlog import DeadLetter, EventLog
from tests.fixtures.commands import Command
from tests.fixtures.logrecords import source_of


@pytest.fixture
def letters(filled_log: EventLog, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventLog]:
    """The log with two letters of a sink and a message that was never an event; no broker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TRAINBUS_BROKER", f"mqtt://127.0.0.1:{free.getsockname()[1]}")
    with EventLog.open(filled_log.place) as log:
        source = source_of("whole", 0)
        for number in (2, 3):
            (event,) = log.read(source, number, number)
            log.add_dead_letter(
                DeadLetter(
                    *("mlflow", source, number, "whole", "digits", "permanent"),
                    *(f"no\n{number}", number, 5.0, event.raw),
                )
            )
        log.add_dead_letter(
            DeadLetter("log", "", 0, "", "", "undecodable", "bad", 1, 5.0, b"\xffx")
        )
        yield log


def states(log: EventLog) -> list[str]:
    return [letter.state for letter in log.dead_letters()]


def test_letters_are_listed_with_a_number_to_type(trainbus: Command, letters: EventLog) -> None:
    status, out, _ = trainbus("dead", "ls")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[3:6]] == ["1", "2", "3"]
    assert "no 2" in out
    _, out, _ = trainbus("dead", "ls", "--group", "log", "--json")
    (letter,) = orjson.loads(out)
    assert (letter["id"], letter["state"], letter["source"]) == (3, "open", "")
    _, out, _ = trainbus("dead", "ls", "--run", "mlp", "--json")
    assert [one["id"] for one in orjson.loads(out)] == [1, 2], "by the name of the run"
    status, out, err = trainbus("dead", "ls", "--state", "resolved")
    assert (status, out, err) == (0, "", "no dead letters\n")


def test_a_letter_is_shown_with_its_event(trainbus: Command, letters: EventLog) -> None:
    status, out, _ = trainbus("dead", "show", "1")
    assert status == 0
    assert "tries:   2" in out
    assert '"type": "trainbus.params.v1"' in out
    _, out, _ = trainbus("dead", "show", "2", "--json")
    assert orjson.loads(out)["event"]["id"].endswith("3")
    _, out, _ = trainbus("dead", "show", "3")
    assert "never decoded" in out
    assert "\\xffx" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dead", "show", "9"), "no dead letter 9"),
        (("dead", "retry", "1", "9"), "no dead letter 9"),
        (("dead", "retry"), "say which"),
        (("dead", "discard"), "say which"),
        (("dead", "retry", "1", "--all"), "not both"),
        (("dead", "retry", "3"), "letter 3 was never an event"),
        (("dead", "ls", "--state", "lost"), "no state 'lost'"),
        (("dead", "ls", "--run", "nobody"), "no run 'nobody'"),
        (("group", "reset", "nobody"), "no group 'nobody'"),
        (("group", "resize", "nobody", "--shards", "4"), "no group 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(
    trainbus: Command, letters: EventLog, arguments: tuple[str, ...], said: str
) -> None:
    status, out, err = trainbus(*arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert states(letters) == ["open"] * 3


@pytest.mark.parametrize("shards", ["0", "65", "four"])
def test_a_number_of_shards_that_cannot_be_is_refused(
    trainbus: Command, letters: EventLog, shards: str
) -> None:
    assert trainbus("group", "resize", "mlflow", "--shards", shards)[0] == 2


def test_a_retry_is_kept_also_when_no_broker_answers(trainbus: Command, letters: EventLog) -> None:
    status, _, err = trainbus("dead", "retry", "--all", "--wait", "0")
    assert status == 0
    assert "the request is in the event log" in err
    assert "not tried yet: 2" in err
    assert states(letters) == ["retried", "retried", "open"], "the third is no event"


def test_all_letters_can_be_discarded(trainbus: Command, letters: EventLog) -> None:
    status, _, err = trainbus("dead", "discard", "--all")
    assert status == 0
    assert "discarded 3 dead letters" in err
    assert "verify goes on counting" in err
    assert states(letters) == ["discarded"] * 3
    assert "no dead letters to retry" in trainbus("dead", "retry", "--all")[2]


def test_a_group_is_left_alone_when_nobody_can_say_whether_it_works(
    trainbus: Command, letters: EventLog
) -> None:
    letters.register_group("mlflow", 8, now=1.0)
    status, _, err = trainbus("group", "resize", "mlflow", "--shards", "4")
    assert status == 1
    assert "cannot connect to the broker" in err
    assert letters.groups()[0].shards == 8


def test_status_without_a_broker_shows_what_the_log_knows(
    trainbus: Command, letters: EventLog
) -> None:
    letters.register_group("mlflow", 8, now=1.0)
    status, out, _ = trainbus("status", "--json", "--listen", "0.1")
    found = orjson.loads(out)
    assert (status, found["healthy"]) == (1, False)
    assert "nobody answers on mqtt://127.0.0.1" in found["problems"][0]
    assert {run["run"] for run in found["runs"]} == {"holes"}
    assert [(group["group"], group["dead"]) for group in found["groups"]] == [
        ("log", 1),
        ("mlflow", 2),
    ]
    status, out, _ = trainbus("status", "--listen", "0.1")
    assert status == 1
    assert "wrong: nobody answers" in out


def test_status_notes_that_no_log_can_be_read_from_here(
    trainbus: Command, letters: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINBUS_LOG", "sqlite:////nowhere/log.db")
    status, out, _ = trainbus("status", "--json", "--listen", "0.1")
    assert status == 1
    assert "there is no event log" in orjson.loads(out)["notes"][0]
    assert trainbus("status", "--log", "mysql://x/y", "--listen", "0.1")[0] == 2
