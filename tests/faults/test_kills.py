"""SIGKILL for each process of the road: everything arrives, once."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable

from tests.faults.road import Point, Road
from tests.fixtures.processes import wait_until


def test_nothing_is_lost_when_nothing_is_killed(road: Road) -> None:
    road.worker("log")
    road.worker("mlflow")
    trainer = road.trainer("quiet", "--steps", "200")
    assert trainer.wait(60) == 0
    road.wait_arrived("quiet")
    road.wait_ended("quiet", "FINISHED")


def test_a_trainer_killed_right_after_log_loses_nothing_and_its_run_ends_as_killed(
    road: Road,
) -> None:
    road.worker("log")
    road.worker("mlflow")
    trainer = road.trainer("dead", "--steps", "100", "--kill-at", "57")
    assert trainer.wait(60) == -signal.SIGKILL
    assert len(road.truth("dead")) == 2 * 58
    road.wait_arrived("dead")
    road.wait_ended("dead", "KILLED", 10)


def test_a_killed_shipper_is_started_again_and_loses_nothing(road: Road) -> None:
    road.worker("log")
    road.worker("mlflow")
    trainer = road.trainer("ship", "--steps", "300", "--pace", "0.02")
    for _ in range(2):
        first = road.shipper_pid()
        wait_until(lambda: sum(road.in_log("ship").values()) > 20, 30, "points in the log")
        road.kill_shipper()
        _wait_new_shipper(road, first)
    assert trainer.wait(60) == 0
    road.wait_arrived("ship")
    road.wait_ended("ship", "FINISHED")


def test_a_killed_broker_that_keeps_its_data_loses_nothing(road: Road) -> None:
    _kill_broker(road, is_wiped=False)


def test_a_killed_broker_that_loses_its_data_loses_nothing(road: Road) -> None:
    _kill_broker(road, is_wiped=True)


def _kill_broker(road: Road, is_wiped: bool) -> None:
    road.worker("log")
    road.worker("mlflow")
    trainer = road.trainer("broken", "--steps", "400", "--pace", "0.01")
    for threshold in (100, 400):
        _wait_points(lambda: road.in_log("broken"), threshold)
        road.broker.kill()
        if is_wiped:
            road.broker.wipe()
        road.broker.start()
    assert trainer.wait(60) == 0
    assert json.loads(trainer.stdout)["slowest_seconds"] < 1.0
    road.wait_arrived("broken")
    road.wait_ended("broken", "FINISHED")


def test_a_killed_log_worker_loses_nothing(road: Road) -> None:
    log = road.worker("log")
    road.worker("mlflow")
    trainer = road.trainer("logless", "--steps", "400", "--pace", "0.01")
    for threshold in (100, 300):
        _wait_points(lambda: road.in_log("logless"), threshold)
        log.kill()
        log = road.worker("log")
    assert trainer.wait(60) == 0
    road.wait_arrived("logless")
    road.wait_ended("logless", "FINISHED")


def test_a_killed_mlflow_worker_loses_nothing(road: Road) -> None:
    road.worker("log")
    sink = road.worker("mlflow")
    trainer = road.trainer("sinkless", "--steps", "400", "--pace", "0.01")
    for threshold in (100, 300):
        _wait_points(lambda: road.in_mlflow("sinkless"), threshold)
        sink.kill()
        sink = road.worker("mlflow")
    assert trainer.wait(60) == 0
    road.wait_arrived("sinkless")
    road.wait_ended("sinkless", "FINISHED")


def test_a_killed_road_with_the_log_on_postgresql_loses_nothing(postgres_road: Road) -> None:
    road = postgres_road
    log, sink = road.worker("log"), road.worker("mlflow")
    trainer = road.trainer("all", "--steps", "500", "--pace", "0.01")
    wait_until(lambda: sum(road.in_log("all").values()) >= 100, 60, "points")
    road.kill_shipper()
    road.broker.kill()
    log.kill()
    sink.kill()
    road.broker.wipe()
    road.broker.start()
    road.worker("log")
    road.worker("mlflow")
    assert trainer.wait(60) == 0
    road.wait_arrived("all", 60)
    road.wait_ended("all", "FINISHED")


def _wait_points(found: Callable[[], Counter[Point]], least: int) -> None:
    wait_until(lambda: sum(found().values()) >= least, 60, f"{least} points")


def _wait_new_shipper(road: Road, killed: int) -> None:
    wait_until(lambda: road.shipper_pid() != killed, 10, "a new shipper")
