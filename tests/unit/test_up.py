"""What ``trainbus up`` starts, and when it starts a part again."""

from __future__ import annotations

import pytest

from bus.config import Settings
from bus.errors import ConfigError
from bus.up.plan import CONFIGURING, configured_sinks, plan_parts
from bus.up.restarts import Restarts

INSTALLED = ["clearml", "hub", "mlflow"]


@pytest.mark.parametrize(
    ("environ", "sinks"),
    [
        ({}, ["mlflow"]),
        ({"MLFLOW_TRACKING_URI": "http://mlflow:5000"}, ["mlflow"]),
        ({"HUB_API_KEY_FILE": "/run/secrets/hub"}, ["hub"]),
        ({"CLEARML_API_HOST": "https://api", "ULTRALYTICS_API_KEY": "ul_1"}, ["clearml", "hub"]),
        ({"HUB_API_KEY": ""}, ["mlflow"]),
    ],
)
def test_the_environment_says_which_sinks_are_wanted(
    environ: dict[str, str], sinks: list[str]
) -> None:
    assert configured_sinks(environ, INSTALLED) == sinks


def test_a_sink_that_is_not_installed_is_not_started() -> None:
    assert configured_sinks({"HUB_API_KEY": "k"}, ["mlflow"]) == ["mlflow"]


def test_without_any_sink_the_way_out_is_named() -> None:
    with pytest.raises(ConfigError, match="name one with --sink"):
        configured_sinks({}, [])


def test_every_sink_of_ours_can_be_configured() -> None:
    assert sorted(CONFIGURING) == INSTALLED


def test_the_broker_comes_first_and_the_log_before_the_sinks() -> None:
    settings = Settings.from_environment({"TRAINBUS_BROKER": "mqtt://127.0.0.1:1999"})
    parts = plan_parts(settings, ["mlflow", "mlflow", "hub"], has_broker=False)
    assert [part.name for part in parts] == ["broker", "log", "mlflow", "hub"]
    assert [part.is_broker for part in parts] == [True, False, False, False]
    assert parts[0].arguments == ("broker", "--port", "1999")
    assert parts[2].arguments == ("worker", "mlflow")


def test_a_broker_that_is_there_is_used() -> None:
    settings = Settings.from_environment({"TRAINBUS_BROKER": "mqtts://user:pw@broker.lan"})
    parts = plan_parts(settings, ["mlflow"], has_broker=True)
    assert [part.name for part in parts] == ["log", "mlflow"]


def test_the_wait_before_a_restart_grows_and_is_forgotten_after_a_good_while() -> None:
    now = 0.0
    restarts = Restarts(lambda: now)
    waits = []
    for _ in range(10):
        restarts.started()
        now += 1.0
        waits.append(restarts.ended())
    assert waits[0] <= 0.5
    assert 30.0 / 4 <= waits[-1] <= 30.0
    restarts.started()
    now += 60.0
    assert restarts.ended() <= 0.5
