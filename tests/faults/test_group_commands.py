"""``trainbus group`` and ``trainbus status`` over the whole road."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import orjson

from bus.mqtt import open_link
from bus.topics import Topics
from tests.faults.road import Road
from tests.fixtures.processes import wait_until


def command(road: Road, *arguments: str) -> tuple[int, str, str]:
    """Run trainbus to its end: exit status and what it printed."""
    process = road.processes.trainbus(*arguments, environ=road.environ)
    return process.wait(60), process.stdout, process.stderr


def status(road: Road) -> tuple[int, dict[str, Any]]:
    code, out, err = command(road, "status", "--json", "--listen", "1.2")
    assert out, err
    return code, orjson.loads(out)


def groups(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for group in found["groups"]:
        yield group["group"], group


def is_well(road: Road) -> bool:
    return status(road)[0] == 0


def test_groups_resized_with_events_under_way_lose_nothing(road: Road) -> None:
    log, sink = road.worker("log"), road.worker("mlflow")
    trainer = road.trainer("resized", "--steps", "900", "--pace", "0.02", "--timeout", "30")
    wait_until(lambda: sum(road.in_mlflow("resized").values()) >= 40, 60, "points in MLflow")
    for group, worker in (("mlflow", sink), ("log", log)):
        code, _, err = command(road, "group", "resize", group, "--shards", "4", "--listen", "1.2")
        assert code == 2
        assert "is at work" in err
        # Killed: what it had in hand goes back into the old sessions' queues.
        worker.kill()
        code, _, err = command(road, "group", "resize", group, "--shards", "4", "--listen", "1.2")
        assert code == 0, err
        assert "8 shards before, 4 from now on" in err
    refused = road.worker("mlflow", "--shards", "8")
    assert refused.wait(60) == 2
    assert "has 4 shards in the event log" in refused.stderr
    assert "trainbus group resize mlflow --shards 8" in refused.stderr
    # With the new number, whether it is said or not.
    road.worker("log", "--shards", "4")
    road.worker("mlflow")
    assert trainer.wait(90) == 0
    assert json.loads(trainer.stdout)["is_stored"]
    road.wait_arrived("resized", 60)
    road.wait_ended("resized", "FINISHED", 60)
    wait_until(lambda: is_well(road), 30, "all is well")
    assert {name: group["shards"] for name, group in groups(status(road)[1])} == {
        "log": 4,
        "mlflow": 4,
    }


def test_a_group_that_is_reset_begins_anew_from_the_event_log(mosquitto_road: Road) -> None:
    road = mosquitto_road
    log, sink = road.worker("log"), road.worker("mlflow")
    assert road.trainer("before", "--steps", "20").wait(60) == 0
    road.wait_arrived("before")
    sink.kill()
    # For MLflow nobody is there: its events wait in the sessions that are about to go.
    trainer = road.trainer("between", "--steps", "100")
    assert trainer.wait(60) == 0
    log.kill()
    # And these are only in the sessions of the log group, and in the journal.
    unstored = road.trainer("unstored", "--steps", "100", "--timeout", "1")
    assert unstored.wait(60) == 0
    for group in ("mlflow", "log"):
        code, _, err = command(road, "group", "reset", group, "--listen", "1.2")
        assert code == 0, err
    road.worker("log")
    road.worker("mlflow")
    for run in ("before", "between", "unstored"):
        road.wait_arrived(run, 60)
        road.wait_ended(run, "FINISHED", 60)


def test_a_reset_leaves_no_session_in_the_broker(road: Road) -> None:
    worker = road.worker("log")
    wait_until(lambda: is_well(road), 60, "the shards are owned")
    worker.kill()
    assert is_session_present(road)
    code, _, err = command(road, "group", "reset", "log", "--listen", "1.2")
    assert code == 0, err
    assert not is_session_present(road)


def is_session_present(road: Road) -> bool:
    async def ask() -> bool:
        session = Topics().session("log", 3)
        async with open_link(road.broker.address, session, is_clean=False) as link:
            return link.is_session_present

    return asyncio.run(ask())


def test_a_group_nobody_knows_is_refused(mosquitto_road: Road) -> None:
    mosquitto_road.worker("log")
    wait_until(lambda: is_well(mosquitto_road), 60, "the log worker works")
    code, _, err = command(mosquitto_road, "group", "reset", "mlfow")
    assert code == 2
    assert "no group 'mlfow' has worked with this event log; there are: log" in err


def test_status_shows_the_shards_of_a_killed_worker_as_unowned_and_then_as_owned(
    road: Road,
) -> None:
    code, found = status(road)
    assert code == 1
    assert any("no log worker" in problem for problem in found["problems"])
    road.worker("log")
    sink = road.worker("mlflow")
    trainer = road.trainer("shown", "--steps", "3000", "--pace", "0.02")
    wait_until(lambda: road.status_in_mlflow("shown") == "RUNNING", 60, "a run in flight")
    wait_until(lambda: is_well(road), 60, "all is well")
    _, found = status(road)
    assert [run["run"] for run in found["runs"]] == [road.run_id("shown")]
    assert len(found["nodes"]) == 1
    assert [len(group["members"]) for _, group in groups(found)] == [1, 1]
    sink.kill()
    code, found = status(road)
    mlflow = dict(groups(found))["mlflow"]
    assert (code, mlflow["members"], mlflow["unowned"]) == (1, [], list(range(8)))
    assert any("no mlflow worker" in problem for problem in found["problems"])
    road.worker("mlflow")
    wait_until(lambda: is_well(road), 60, "all is well again")
    _, out, _ = command(road, "status", "--listen", "1.2")
    assert "8 of 8" in out
    assert road.run_id("shown") in out
    trainer.kill()


def test_status_says_that_nobody_answers(mosquitto_road: Road) -> None:
    road = mosquitto_road
    road.broker.kill()
    code, found = status(road)
    assert code == 1
    assert found["problems"][0].startswith(f"nobody answers on {road.broker.address}")
