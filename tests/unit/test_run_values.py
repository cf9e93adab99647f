from __future__ import annotations

import argparse
import dataclasses
import enum
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from publishers.values import json_scalar, plain, whole_number, wire_number


class Tensor:
    """As much of a 0-d tensor as matters."""

    def __init__(self, value: object, shape: tuple[int, ...] = ()) -> None:
        self.value = value
        self.shape = shape

    def item(self) -> object:
        if self.shape:
            raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")
        return self.value


class Hostile:
    def __float__(self) -> float:
        raise ZeroDivisionError

    def __str__(self) -> str:
        raise ZeroDivisionError


class Mode(enum.Enum):
    FAST = "fast"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Settings:
    lr: float
    path: Path


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (1, 1),
        (1.5, 1.5),
        (True, 1),
        (False, 0),
        (Level.HIGH, 3),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (2**63, 2**63),
        (2**64 - 1, 2**64 - 1),
        (2**64, 2.0**64),
        (-(2**70), -(2.0**70)),
        (np.float64(0.1), 0.1),
        (np.float32(0.1), 0.10000000149011612),
        (np.float16(0.1), 0.0999755859375),
        (np.longdouble(0.5), 0.5),
        (np.int64(-3), -3),
        (np.uint8(3), 3),
        (np.bool_(True), 1),
        (np.float32("nan"), "NaN"),
        (np.array(2.5), 2.5),
        (np.array([2.5]), 2.5),
        (Tensor(0.25), 0.25),
        (Tensor(7), 7),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 4), 0.25),
    ],
)
def test_a_number_is_taken(value: object, wire: float | str) -> None:
    taken = wire_number(value)
    assert taken == wire
    assert type(taken) is type(wire)


@pytest.mark.parametrize(
    "value",
    ["1.0", b"1", None, [1], {}, 1j, np.complex64(1), np.array([1, 2]), Tensor(1, (2,)), Hostile()],
)
def test_what_is_no_single_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        wire_number(value)


def test_a_whole_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        wire_number(10**400)


def test_the_refusal_says_what_it_got() -> None:
    with pytest.raises(ValueError, match=r"^ndarray of shape \(2, 3\) is not a number$"):
        wire_number(np.zeros((2, 3)))


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_float32_keeps_its_exact_value(value: float) -> None:
    written = orjson.loads(orjson.dumps([np.float32(value)], json_scalar))[0]
    assert written == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_float_comes_back_as_it_was(value: float) -> None:
    assert orjson.loads(orjson.dumps([wire_number(value)]))[0] == value


@pytest.mark.parametrize("value", [7, 7.0, np.int32(7), np.float32(7), Tensor(7)])
def test_a_step_may_be_any_whole_number(value: object) -> None:
    step = whole_number(value)
    assert step == 7
    assert type(step) is int


@pytest.mark.parametrize("value", [1.5, math.nan, math.inf, "7", None, 2**63, -(2**70), 1e30])
def test_a_step_that_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"number|64 bits"):
        whole_number(value)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (None, None),
        (True, True),
        (math.nan, "NaN"),
        (2**80, str(2**80)),
        (Mode.FAST, "fast"),
        (Path("a/b"), "a/b"),
        ((1, [2.5, {"a": None}]), [1, [2.5, {"a": None}]]),
        ({1: "a", None: 2}, {"1": "a", "None": 2}),
        ({"b", "a"}, ["a", "b"]),
        (Settings(0.1, Path("x")), {"lr": 0.1, "path": "x"}),
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
        (b"raw", "b'raw'"),
        (int, "<class 'int'>"),
        (argparse.Namespace(a=1), "Namespace(a=1)"),
        (Hostile(), "<Hostile>"),
        ("\ud800", "?"),
        (Decimal("0.10"), "0.10"),
    ],
)
def test_a_setting_becomes_json(value: object, form: Any) -> None:
    assert plain(value) == form
    orjson.dumps(plain(value))


def test_a_long_array_becomes_its_short_text() -> None:
    assert isinstance(plain(np.zeros(100_000)), str)
    assert len(plain(np.zeros(100_000))) < 200


def test_a_structure_that_contains_itself_ends() -> None:
    loop: dict[str, object] = {}
    loop["self"] = loop
    orjson.dumps(plain(loop))
