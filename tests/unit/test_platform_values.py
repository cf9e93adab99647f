"""Names and values on Platform's wire."""

from __future__ import annotations

import math

import pytest

from bus.errors import PermanentSinkError
from bus.kinds import Metrics, NonFinite, Number, Table
from subscribers.hub.platform.names import model_name, project_name
from subscribers.hub.platform.rows import read_rows
from subscribers.hub.platform.values import finite, json_value, system_of


@pytest.mark.parametrize(
    ("project", "expected"),
    [
        ("me/proj", "me/proj"),
        ("My Project 1", "my-project-1"),
        ("/data/runs", "/data-runs"),
        ("me/Some Thing/else", "me/some-thing-else"),
        ("a_b.c", "abc"),
        ("--x--y--", "x-y"),
        ("x" * 200, "x" * 128),
    ],
)
def test_projects_are_named_as_by_platforms_own_client(project: str, expected: str) -> None:
    assert project_name(project) == expected


def test_names_of_which_nothing_would_be_left_stay_apart() -> None:
    assert model_name("训练") != model_name("训练二")
    assert model_name("训练").startswith("run-")
    assert project_name("me/训练").startswith("me/project-")
    assert model_name("\ud800").startswith("run-")


def test_what_is_not_finite_is_null() -> None:
    assert [finite(v) for v in (NonFinite.NAN, NonFinite.INFINITY, math.inf, math.nan)] == [
        None
    ] * 4
    assert finite(2590230) == 2590230
    assert json_value({"a": [1, math.nan, {"b": -math.inf}], "c": "NaN"}) == {
        "a": [1, None, {"b": None}],
        "c": "NaN",
    }


def test_readings_stand_where_platform_looks_for_them() -> None:
    readings: dict[str, Number] = {
        "cpu.percent": 87.2,
        "memory.percent": 36.7,
        "disk.used_gb": 30.68,
        "disk.total_gb": 270.553,
        "disk_io.read_mbs": 0,
        "network.sent_mbs": NonFinite.NAN,
        "gpu.0.percent": 95,
        "gpu.0.memory.percent": 85.4,
        "gpu.10.temperature": 70,
        "fan": 3,
    }
    assert system_of(readings) == {
        "cpu": 87.2,
        "ram": 36.7,
        "disk": [{"mount": "/", "used_gb": 30.68, "total_gb": 270.553}],
        "disk_io": {"read_mbs": 0},
        "network": {"sent_mbs": None},
        "gpus": {"0": {"usage": 95, "memory": 85.4}, "10": {"temp": 70}},
        "fan": 3,
    }


def test_a_row_is_read_with_each_value_in_its_place() -> None:
    keys = ["loss", "epoch", "fitness", "best_fitness", "lr/pg0", "lr/pg1", "model/GFLOPs"]
    keys += ["rank1/loss", "bad"]
    table = Table(keys, [[0.0, 700, 0.5, 7, 0.4, 0.6, 1e-5, 2e-5, 6.4, 9.0, NonFinite.NAN]])
    (row,) = read_rows(Metrics([table]))
    assert (row.named, row.step, row.number) == (7, 700, 7)
    assert row.metrics == {"loss": 0.5, "lr": 1e-5, "lr/pg1": 2e-5, "bad": None}
    assert (row.fitness, row.best, row.model_info) == (0.4, 0.6, {"gflops": 6.4})


def test_rows_of_several_tables_come_in_the_order_in_which_they_were_logged() -> None:
    losses = Table(["loss"], [[1.0, 0, 0.9], [2.0, 1, 0.8]])
    scores = Table(["acc"], [[1.5, 0, 0.1], [2.5, 1, 0.2]])
    rows = list(read_rows(Metrics([losses, scores])))
    assert [(row.step, list(row.metrics)) for row in rows] == [
        (0, ["loss"]),
        (0, ["acc"]),
        (1, ["loss"]),
        (1, ["acc"]),
    ]


def test_whole_numbers_beyond_64_bits_are_written_as_json_can_hold_them() -> None:
    assert [finite(n) for n in (2**64 - 1, -(2**63))] == [2**64 - 1, -(2**63)]
    assert [finite(n) for n in (2**64, -(2**70))] == [2.0**64, -(2.0**70)]
    assert finite(10**400) is None
    assert json_value({"a": [10**400, True, 2**64]}) == {"a": [None, True, 2.0**64]}


@pytest.mark.parametrize("step", [2**64, -(10**400)])
def test_a_step_beyond_64_bits_is_refused_for_good(step: int) -> None:
    with pytest.raises(PermanentSinkError, match="64 bits"):
        list(read_rows(Metrics([Table(["loss"], [[10**400, step, 1.0]])])))


@pytest.mark.parametrize("epoch", [0.5, -1, NonFinite.NAN, 1e308, 2**70])
def test_an_epoch_that_is_no_count_names_nothing(epoch: float) -> None:
    (row,) = read_rows(Metrics([Table(["loss", "epoch"], [[0.0, 3, 1.0, epoch]])]))
    assert (row.named, row.number) == (None, 3)


def test_rows_of_other_ranks_alone_hold_nothing() -> None:
    assert list(read_rows(Metrics([Table(["rank2/loss"], [[0.0, 3, 1.0]])]))) == []
