"""What ``trainbus status`` makes of heartbeats and of the event log."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest

from bus.eventlog.records import OPEN, RESOLVED, RETRIED, Group, RunSummary
from bus.group.heartbeat import Heartbeat
from bus.group.listen import Heard
from bus.nodes import NodeHeartbeat, encode_node
from bus.status import GroupStatus, LogFacts, Status, make_status
from bus.topics import Topics

ALL = list(range(8))
TOPICS = Topics()
RUN = RunSummary("digits", "r1", "mlp", 5, 500, 1.0, 2.0, None, 1, 0)


def member(name: str = "a", owned: list[int] | None = None, **changes: Any) -> Heartbeat:
    beat = Heartbeat(name, 8, ALL if owned is None else owned)
    return msgspec.structs.replace(beat, **changes)


def make(
    beats: dict[str, list[Heartbeat]], log: LogFacts | None = None, error: str | None = None
) -> Status:
    members = {(group, beat.member): beat for group, held in beats.items() for beat in held}
    node = NodeHeartbeat("node-0", "s", {"x": 1}, ["x", "y"], waiting=3, backlog_bytes=9)
    nodes = {} if error else {("node-0", "s"): node}
    return make_status("mqtt://h:1", error, members, nodes, log or LogFacts())


def group_of(status: Status, name: str = "mlflow") -> GroupStatus:
    return next(group for group in status.groups if group.group == name)


def test_a_bus_where_all_work_is_healthy() -> None:
    log = LogFacts([RUN], [Group("log", 8, 0.0), Group("mlflow", 8, 0.0)])
    status = make({"log": [member()], "mlflow": [member("a", ALL[:4]), member("b", ALL[4:])]}, log)
    assert (status.is_healthy, status.problems, status.notes) == (True, [], [])
    assert [group.group for group in status.groups] == ["log", "mlflow"]
    assert group_of(status).owned == 8
    (node,) = status.nodes
    assert (node.sources, node.waiting, node.backlog_bytes) == (2, 3, 9)
    assert orjson.loads(orjson.dumps(status.to_dict()))["healthy"] is True


@pytest.mark.parametrize(
    ("owned", "problem"),
    [
        ([0, 1, 2, 4, 5, 6, 7], "shard 3 of mlflow has no owner"),
        ([0, 1, 2, 4], "shards 3, 5, 6, 7 of mlflow have no owner"),
    ],
)
def test_shards_without_an_owner_are_named(owned: list[int], problem: str) -> None:
    status = make({"log": [member()], "mlflow": [member("a", owned)]})
    assert status.problems == [problem]


def test_a_log_worker_that_is_missing_is_said_first() -> None:
    log = LogFacts(groups=[Group("mlflow", 8, 0.0)])
    status = make({}, log)
    assert [problem.partition(":")[0] for problem in status.problems] == [
        "no log worker",
        "no mlflow worker",
    ]
    assert group_of(status).unowned == ALL


def test_a_broker_that_does_not_answer_is_the_one_thing_said_of_workers() -> None:
    log = LogFacts(groups=[Group("mlflow", 8, 0.0)], dead={("mlflow", OPEN): 2})
    status = make({}, log, error="refused")
    assert status.problems == [
        "nobody answers on mqtt://h:1: is the broker running? (refused)",
        "2 dead letters of mlflow: see trainbus dead ls --group mlflow",
    ]


def test_a_log_that_fails_is_a_problem_and_one_that_is_elsewhere_a_note() -> None:
    beats = {"log": [member()]}
    failing = make(beats, LogFacts(error="locked", is_failure=True))
    assert (failing.is_healthy, failing.notes) == (False, [])
    elsewhere = make(beats, LogFacts(error="not here"))
    assert (elsewhere.is_healthy, len(elsewhere.notes)) == (True, 1)


def test_counters_of_all_members_are_put_together() -> None:
    first = {"lag": 5, "lag_seconds": 2.5, "retries": 1, "rate_waits": 3, "rate_waiting_runs": 1}
    second = {"lag": 2, "lag_seconds": 7.25, "retries": "many", "circuit": "?"}
    beats = [member("a", ALL[:4], report=first), member("b", ALL[4:], report=second)]
    group = group_of(make({"log": [member()], "mlflow": beats}))
    assert (group.lag, group.lag_seconds, group.retries) == (7, 7.2, 1)
    assert (group.rate_waits, group.rate_waiting_runs, group.circuit) == (3, 1, "closed")


def test_the_log_group_lags_by_what_it_holds() -> None:
    status = make({"log": [member(report={"held": 12})]})
    assert group_of(status, "log").lag == 12


def test_a_circuit_that_is_open_is_a_problem_also_of_a_project_alone() -> None:
    project = {"state": "open", "seconds": 3.0, "error": "no quota"}
    circuit = {"state": "closed", "seconds": 0.0, "error": "", "projects": {"digits": project}}
    beats = [member(report={"circuit": circuit, "lag_seconds": 500})]
    status = make({"log": [member()], "mlflow": beats})
    assert group_of(status).circuit == "open"
    assert status.problems == ["mlflow does not take events (open): no quota"]


def test_a_group_is_behind_unless_it_waits_for_its_rate_limit() -> None:
    report = {"lag_seconds": 1500.0}
    beats = {"log": [member()], "mlflow": [member(report=report)]}
    assert make(beats).problems == ["mlflow is 1,500 s behind"]
    beats["mlflow"] = [member(report={**report, "rate_waiting_runs": 1})]
    assert make(beats).is_healthy


def test_other_numbers_of_shards_are_told() -> None:
    stranger = member("b", [], shards=4)
    status = make({"log": [member()], "mlflow": [member(), stranger]})
    assert group_of(status).shards == 8
    assert status.problems == [
        "workers of mlflow were started with 4 and 8 shards: restart those of one"
    ]
    log = LogFacts(groups=[Group("mlflow", 4, 0.0)])
    (problem,) = make({"log": [member()], "mlflow": [member()]}, log).problems
    assert problem.endswith("trainbus group resize mlflow --shards 8")


def test_dead_letters_are_counted_by_group_also_of_one_without_workers() -> None:
    log = LogFacts(dead={("x", OPEN): 1, ("x", RETRIED): 2, ("y", RESOLVED): 3})
    status = make({"log": [member()]}, log)
    assert (group_of(status, "x").dead, group_of(status, "x").retried) == (1, 2)
    assert status.problems == ["1 dead letter of x: see trainbus dead ls --group x"]


def test_who_was_heard_and_left_is_forgotten_and_a_hostile_heartbeat_is_nothing() -> None:
    heard = Heard(TOPICS)
    beat, left = member(), member(has_left=True)
    heard.hear(TOPICS.member("log", "a"), msgspec.json.encode(beat))
    heard.hear(TOPICS.member("log", "b"), msgspec.json.encode(beat))
    heard.hear(TOPICS.member("log", "a"), b"{")
    heard.hear("trainbus/v1/groups/log", msgspec.json.encode(beat))
    heard.hear("else", b"")
    assert heard.of_group("log") == [beat]
    heard.hear(TOPICS.member("log", "a"), msgspec.json.encode(left))
    assert heard.of_group("log") == []
    node = NodeHeartbeat("n", "s")
    heard.hear(TOPICS.node("n", "s"), encode_node(node))
    assert heard.nodes == {("n", "s"): node}
    heard.hear(TOPICS.node("n", "s"), encode_node(NodeHeartbeat("n", "s", has_left=True)))
    assert heard.nodes == {}
