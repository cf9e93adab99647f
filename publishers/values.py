"""Turns what people log into what the wire carries.

Two conversions: :func:`wire_number` for metric values, which is strict about what a number is, and
:func:`plain` for parameters and settings, which finds a readable form of anything.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from enum import Enum
from typing import Any

from publishers.redaction import without_keys

__all__ = ["json_scalar", "plain", "whole_number", "wire_number"]

_LOWEST_INT = -(2**63)
_HIGHEST_INT = 2**64 - 1
"""JSON writers and readers in use here keep whole numbers exact within these bounds."""

_MAX_DEPTH = 16
"""Deeper levels of a setting are written as text: a structure may contain itself."""

_MAX_ARRAY_ITEMS = 1000
"""Longer arrays among settings are written as their short text."""


def json_scalar(value: object) -> int | float:
    """The ``default=`` of :func:`orjson.dumps` for rows: numpy scalars and 0-d tensors as numbers.

    Raises:
        TypeError: It is not a single number.
    """
    # float32 widens exactly; orjson's own numpy option would write its short form.
    item = getattr(value, "item", None)
    number: Any = value if item is None else item()
    if isinstance(number, int | float):
        # float() takes a numpy.float64 down to the built-in type.
        return number if isinstance(number, int) else float(number)
    if isinstance(number, complex) or not hasattr(number, "__float__"):
        raise TypeError(f"{type(value).__name__} is not a number")
    return float(number)


def wire_number(value: object) -> int | float | str:
    """A metric value as a row holds it: non-finite floats as their names, bools as 0 and 1.

    Raises:
        ValueError: It is not a single number; the message says what it is.
    """
    try:
        number = json_scalar(value)
    except Exception as error:  # a foreign object's item() may raise anything
        raise ValueError(f"{_describe(value)} is not a number") from error
    if isinstance(number, int):
        if _LOWEST_INT <= number <= _HIGHEST_INT:
            return int(number)
        try:
            return float(number)
        except OverflowError as error:
            raise ValueError("a whole number too large for a float") from error
    return _finite_or_name(number)


def whole_number(value: object) -> int:
    """A step: an int, or a float or scalar of any library that is whole.

    Raises:
        ValueError: It is not.
    """
    number = wire_number(value)
    if isinstance(number, str) or number != int(number):
        raise ValueError(f"{number} is not a whole number")
    if not _LOWEST_INT <= number < -_LOWEST_INT:
        raise ValueError(f"{number} does not fit into 64 bits")
    return int(number)


def plain(value: object, depth: int = 0) -> Any:
    """A parameter or setting as JSON can hold it; what has no such form becomes its text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return plain(value.value, depth + 1)
    if isinstance(value, str):
        return without_keys(_unicode(str(value)))
    if isinstance(value, int):
        number = int(value)
        return number if _LOWEST_INT <= number <= _HIGHEST_INT else str(number)
    if isinstance(value, float):
        return _finite_or_name(float(value))
    if isinstance(value, os.PathLike):
        return _unicode(os.fsdecode(value))
    if depth < _MAX_DEPTH:
        nested = _plain_nested(value, depth + 1)
        if nested is not None:
            return nested
    return _text(value)


def _plain_nested(value: object, depth: int) -> Any:
    """The plain form of a container or an array; None for anything else."""
    if isinstance(value, Mapping):
        return {_text(key): plain(item, depth) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item, depth) for item in value), key=str)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        return {name: plain(getattr(value, name, None), depth) for name in names}
    if hasattr(value, "tolist") and hasattr(value, "shape"):
        try:
            if math.prod(value.shape) <= _MAX_ARRAY_ITEMS:
                return plain(value.tolist(), depth)
        except Exception:  # noqa: BLE001  # a foreign array may raise anything: its text will do
            return None
    return None


def _finite_or_name(number: float) -> float | str:
    if math.isfinite(number):
        return number
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def _text(value: object) -> str:
    try:
        return _unicode(str(value))
    except Exception:  # noqa: BLE001  # a foreign __str__ may raise anything
        return f"<{type(value).__name__}>"


def _unicode(text: str) -> str:
    """The text without lone surrogates, which UTF-8 and so JSON cannot carry."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _describe(value: object) -> str:
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    if isinstance(shape, tuple) and shape:
        return f"{kind} of shape {tuple(shape)}"
    return f"{kind} {_text(value)[:40]!r}" if isinstance(value, str | complex) else kind
