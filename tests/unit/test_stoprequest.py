"""Who is meant by a request to stop, and who has confirmed it."""

from __future__ import annotations

import pytest

from bus.nodes import NodeHeartbeat
from bus.source import Source
from bus.stoprequest import StopRequest, named_in_the_log

NOW = 1_767_225_600.7


def name(rank: int = 0, attempt: int = 1, node: str = "a", age: int = 100, run: str = "r") -> str:
    return str(Source(run, rank, f"{attempt}-{int(NOW) - age:x}-0123456789abcdef", node))


def beat(*live: str, stopping: tuple[str, ...] = (), node: str = "a") -> NodeHeartbeat:
    return NodeHeartbeat(node, "spool", live=list(live), stopping=list(stopping))


def request(*named: str, ended: tuple[str, ...] = (), is_patient: bool = False) -> StopRequest:
    return StopRequest("r", named, ended, NOW, is_patient=is_patient)


def test_a_process_is_told_until_its_shipper_confirms() -> None:
    asked = request(name())
    assert asked.unconfirmed == [name()]
    assert asked.hear(beat(name())) == [name()]
    assert asked.hear(beat(name())) == [name()]
    assert not asked.is_done
    assert asked.hear(beat(name(), stopping=(name(),))) == []
    assert asked.is_done
    assert (asked.confirmed, asked.unconfirmed) == ({name()}, [])


def test_a_process_the_log_does_not_know_yet_is_meant_too() -> None:
    asked = request(name(0))
    assert asked.hear(beat(name(1, node="b"), node="b")) == [name(1, node="b")]
    assert asked.unconfirmed == [name(0), name(1, node="b")]


@pytest.mark.parametrize("age", [-100, -1, 0])
def test_a_process_started_after_the_request_or_in_its_second_is_not_meant(age: int) -> None:
    asked = request(name(0))
    again = name(0, age=age)
    assert asked.hear(beat(name(0), again, stopping=(name(0),))) == []
    assert asked.is_done
    assert again not in asked.named


def test_a_process_that_is_older_by_a_second_is_meant() -> None:
    assert request().hear(beat(name(age=1))) == [name(age=1)]


def test_a_process_the_log_names_is_meant_whatever_the_clock_of_its_node_says() -> None:
    ahead = name(0, age=-3600)
    assert request(ahead).hear(beat(ahead)) == [ahead]


def test_other_runs_and_what_is_no_source_are_left_alone() -> None:
    asked = request()
    assert asked.hear(beat(name(run="other"), "nonsense", "/runs/r")) == []
    assert asked.named == set()


def test_a_process_that_has_ended_and_waits_to_be_stored_is_not_meant() -> None:
    assert request(ended=(name(),)).hear(beat(name())) == []


def test_the_word_of_a_shipper_about_others_sources_changes_nothing() -> None:
    asked = request(name())
    asked.hear(beat(stopping=(name(run="other"), "nonsense")))
    assert asked.confirmed == set()


def test_a_shipper_that_leaves_is_not_told_and_its_processes_are_still_meant() -> None:
    asked = request(name())
    assert asked.hear(NodeHeartbeat("a", "spool", has_left=True)) == []
    # Started again: it has not looked at its spool yet, and then it has.
    assert asked.hear(beat()) == []
    assert asked.hear(beat(name())) == [name()]


def test_who_was_heard_and_does_not_confirm_is_known() -> None:
    asked = request(name(0), name(1))
    asked.hear(beat(name(1)))
    assert asked.heard == {name(1)}


@pytest.mark.parametrize(("is_patient", "is_done"), [(False, True), (True, False)])
def test_without_a_log_nobody_heard_is_waited_for(is_patient: bool, is_done: bool) -> None:
    assert request(is_patient=is_patient).is_done is is_done


def test_the_log_names_the_highest_attempt_of_each_rank() -> None:
    sources = [name(0, 1), name(0, 2), name(1, 1)]
    assert named_in_the_log(sources, []) == [name(0, 2), name(1, 1)]
    assert named_in_the_log(sources, [name(0, 2)]) == [name(1, 1)]


def test_processes_of_a_lost_node_are_not_waited_for() -> None:
    lost = Source.parse(name(0))
    assert named_in_the_log([name(0), str(lost.loss()), name(1)], []) == [name(1)]
