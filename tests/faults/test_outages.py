"""A tracker or a worker that is away: training does not notice, and nothing is missing after."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter

from bus.eventlog import EventLog
from tests.faults.road import Road
from tests.fixtures.mlflow import MlflowServer
from tests.fixtures.processes import wait_until


def test_training_runs_through_an_outage_of_the_mlflow_server(
    server_road: Road, killable_mlflow_server: MlflowServer
) -> None:
    road, server = server_road, killable_mlflow_server
    road.worker("log")
    road.worker("mlflow")
    trainer = road.trainer("outage", "--steps", "700", "--pace", "0.03")
    wait_until(lambda: sum(road.in_mlflow("outage").values()) >= 40, 60, "points in MLflow")
    server.kill()
    # The outage lasts for the rest of the training, some twenty seconds.
    assert trainer.wait(90) == 0
    said = json.loads(trainer.stdout)
    assert said["is_stored"]
    assert sum(road.truth("outage").values()) == 700 * 2
    # Against 20 s of outage: a call that waited for the tracker would take seconds.
    assert said["slowest_seconds"] < 0.5
    wait_until(lambda: road.in_log("outage") == road.truth("outage"), 10, "all in the log")
    server.start()
    road.wait_arrived("outage", 60)
    road.wait_ended("outage", "FINISHED", 60)


def test_a_hanging_mlflow_server_holds_up_nobody(
    server_road: Road, killable_mlflow_server: MlflowServer
) -> None:
    road, server = server_road, killable_mlflow_server
    road.worker("log")
    road.worker("mlflow")
    first = road.trainer("before", "--steps", "20")
    assert first.wait(60) == 0
    road.wait_arrived("before")
    server.pause()
    trainer = road.trainer("hanging", "--steps", "200", "--pace", "0.01")
    assert trainer.wait(60) == 0
    assert json.loads(trainer.stdout)["is_stored"]
    server.kill()
    server.start()
    road.wait_arrived("hanging", 90)
    road.wait_ended("hanging", "FINISHED", 60)


def test_a_worker_whose_tracker_hangs_still_stops_in_time(
    server_road: Road, killable_mlflow_server: MlflowServer
) -> None:
    road = server_road
    road.worker("log")
    sink = road.worker("mlflow")
    assert road.trainer("before", "--steps", "20").wait(60) == 0
    road.wait_arrived("before")
    killable_mlflow_server.pause()
    assert road.trainer("stuck", "--steps", "20").wait(60) == 0
    # Ten seconds for the write in hand, and a little to leave the group.
    assert sink.stop(15) == 0


def test_a_worker_that_is_stopped_finishes_the_write_in_hand_and_loses_nothing(
    road: Road,
) -> None:
    road.worker("log")
    sink = road.worker("mlflow")
    trainer = road.trainer("handover", "--steps", "300", "--pace", "0.02")
    for least in (50, 450):
        _wait_points(road, "handover", least)
        assert sink.stop(15) == 0
        sink = road.worker("mlflow")
    assert trainer.wait(60) == 0
    road.wait_arrived("handover")
    road.wait_ended("handover", "FINISHED")


def test_events_that_a_bounded_queue_dropped_come_from_the_event_log(
    short_queue_road: Road,
) -> None:
    road = short_queue_road
    road.worker("log")
    sink = road.worker("mlflow")
    first = road.trainer("seen", "--steps", "10")
    assert first.wait(60) == 0
    road.wait_arrived("seen")
    sink.kill()
    # One event every 50 ms: 160 events for a queue of 20.
    trainer = road.trainer("dropped", "--steps", "400", "--pace", "0.02", "--timeout", "30")
    assert trainer.wait(90) == 0
    wait_until(lambda: road.in_log("dropped") == road.truth("dropped"), 30, "all in the log")
    road.worker("mlflow")
    road.wait_arrived("dropped", 60)
    road.wait_ended("dropped", "FINISHED")


def test_a_group_that_starts_late_gets_the_runs_since_its_start_and_older_ones_by_backfill(
    mosquitto_road: Road,
) -> None:
    road = mosquitto_road
    road.worker("log")
    trainer = road.trainer("early", "--steps", "50")
    assert trainer.wait(60) == 0
    assert json.loads(trainer.stdout)["is_stored"]
    road.worker("mlflow", "--backfill")
    road.wait_arrived("early", 60)
    road.wait_ended("early", "FINISHED")


def test_events_keep_in_the_journal_while_no_log_worker_runs(mosquitto_road: Road) -> None:
    road = mosquitto_road
    trainer = road.trainer("kept", "--steps", "50", "--timeout", "1")
    assert trainer.wait(60) == 0
    assert not json.loads(trainer.stdout)["is_stored"]
    road.worker("log")
    wait_until(lambda: road.in_log("kept") == road.truth("kept"), 30, "all in the log")
    wait_until(lambda: not list(road.spool.glob("sources/*")), 30, "an empty spool")


def test_a_left_spool_is_drained_by_ship_once(mosquitto_road: Road) -> None:
    road = mosquitto_road
    road.worker("log")
    trainer = road.trainer("left", "--kill-at", "30", environ={"TRAINBUS_SHIPPER": "off"})
    trainer.wait(30)
    assert list(road.spool.glob("sources/*"))
    ship = road.processes.trainbus("ship", "--once", environ=road.environ)
    assert ship.wait(60) == 0
    assert not list(road.spool.glob("sources/*"))
    assert road.in_log("left") == road.truth("left")


def test_a_poisonous_event_becomes_a_dead_letter_and_everything_around_it_arrives(
    road: Road,
) -> None:
    road.worker("log")
    road.worker("mlflow")
    trainer = road.trainer("poison", "--steps", "60", "--clash-at", "30")
    assert trainer.wait(60) == 0
    road.wait_arrived("poison")
    road.wait_ended("poison", "FINISHED")
    log = EventLog.open(road.log_url)
    (letter,) = log.dead_letters(run=road.run_id("poison"))
    log.close()
    assert letter.group == "mlflow"
    assert letter.reason == "permanent"
    assert "lr" in letter.error
    assert b'"lr":0.2' in letter.raw


def test_two_runs_at_once_do_not_wait_for_each_other(road: Road) -> None:
    road.worker("log", "--shards", "1")
    road.worker("mlflow", "--shards", "1")
    trainers = [
        road.trainer(run, "--steps", "200", "--pace", "0.01") for run in ("one", "two", "three")
    ]
    for trainer in trainers:
        assert trainer.wait(60) == 0
    for run in ("one", "two", "three"):
        road.wait_arrived(run)
        road.wait_ended(run, "FINISHED")


def test_order_within_a_run_is_kept_in_the_tracker(mosquitto_road: Road) -> None:
    road = mosquitto_road
    road.worker("log")
    road.worker("mlflow")
    assert road.trainer("ordered", "--steps", "300").wait(60) == 0
    road.wait_arrived("ordered")
    connection = sqlite3.connect(road.mlflow_db)
    rows = connection.execute("select key, step from metrics order by rowid").fetchall()
    connection.close()
    per_key: dict[str, list[int]] = {}
    for key, step in rows:
        per_key.setdefault(key, []).append(step)
    assert per_key
    assert all(steps == sorted(steps) for steps in per_key.values())
    assert Counter(len(steps) for steps in per_key.values()) == {300: 2}


def _wait_points(road: Road, run: str, least: int) -> None:
    wait_until(lambda: sum(road.in_mlflow(run).values()) >= least, 60, f"{least} points")
