"""Rate limits of a worker: flags before environment, and errors that name where."""

from __future__ import annotations

import pytest

from bus.errors import ConfigError
from bus.ratelimit import UNLIMITED, Rate, RateLimits
from subscribers.cli import worker
from subscribers.worker.rates import read_limits

ENVIRON = {
    "TRAINBUS_MLFLOW_RATE": "20/s",
    "TRAINBUS_MLFLOW_BURST": "40",
    "TRAINBUS_MLFLOW_RUN_RATE": "60/min",
    "TRAINBUS_MLFLOW_KIND_RATE": "checkpoint=4/hour, image=1/s burst 3",
}


def test_nothing_said_is_no_limit() -> None:
    assert read_limits("mlflow", {}) == RateLimits()


def test_the_environment_is_read() -> None:
    kinds = {"checkpoint": Rate(4 / 3600, 1), "image": Rate(1, 3)}
    assert read_limits("mlflow", ENVIRON) == RateLimits(Rate(20, 40), Rate(1, 1), kinds)


def test_flags_win() -> None:
    said = read_limits("mlflow", ENVIRON, "5/s", None, "4/hour", ["metrics=1/s"])
    assert said == RateLimits(Rate(5, 5), Rate(4 / 3600, 1), {"metrics": Rate(1, 1)})


def test_a_burst_of_its_own_goes_before_that_of_the_rate() -> None:
    assert read_limits("x", {}, "5/s burst 7", 9).sink == Rate(5, 9)
    assert read_limits("mlflow", ENVIRON, burst=10).sink == Rate(20, 10)
    assert read_limits("x", {}, "unlimited", 9).sink == UNLIMITED


def test_a_name_that_is_no_variable_is_written_with_underscores() -> None:
    assert read_limits("my-sink.2", {"TRAINBUS_MY_SINK_2_RATE": "1/s"}).sink == Rate(1, 1)


@pytest.mark.parametrize(
    ("environ", "flags", "named"),
    [
        ({"TRAINBUS_X_RATE": "fast"}, {}, "TRAINBUS_X_RATE: 'fast' is no rate"),
        ({"TRAINBUS_X_RUN_RATE": "1"}, {}, "TRAINBUS_X_RUN_RATE: '1' is no rate"),
        ({"TRAINBUS_X_RATE": "1/s", "TRAINBUS_X_BURST": "many"}, {}, "TRAINBUS_X_BURST: 'many'"),
        ({"TRAINBUS_X_BURST": "4"}, {}, "TRAINBUS_X_BURST needs a rate"),
        ({"TRAINBUS_X_KIND_RATE": "checkpoint"}, {}, "use checkpoint=4/hour"),
        ({}, {"rate": "20"}, "--rate: '20' is no rate"),
        ({}, {"burst": 3.0}, "--burst needs a rate"),
        ({}, {"rate": "1/s", "burst": 0.5}, "--burst: burst 0.5: must be 1 or more"),
        ({}, {"kind_rates": ["weights=1/s"]}, "no kind 'weights'"),
    ],
)
def test_what_is_wrong_is_named(
    environ: dict[str, str], flags: dict[str, object], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        read_limits("x", environ, **flags)  # type: ignore[arg-type]  # of every type


def test_the_log_worker_has_no_limit_to_set() -> None:
    with pytest.raises(ConfigError, match="log worker has no rate limit"):
        worker("log", run_rate="1/s")
