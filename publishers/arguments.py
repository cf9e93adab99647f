"""What the methods of a run are given, made what records hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bus.errors import EventError

__all__ = ["artifact_path", "attributes", "checked"]


def checked(convert: Callable[[object], Any], field: str, value: object) -> Any:
    """Convert an argument.

    Raises:
        EventError: It cannot be; the field is named.
    """
    try:
        return convert(value)
    except ValueError as error:
        raise EventError(field, str(error)) from error


def attributes(value: object) -> object:
    """What ``argparse`` and its like hold, as a dict; anything else as it is."""
    return vars(value) if hasattr(value, "__dict__") and not isinstance(value, Mapping) else value


def artifact_path(name: str) -> str:
    """A path among the run's artifacts.

    Raises:
        EventError: It leads elsewhere.
    """
    parts = [part for part in str(name).split("/") if part not in {"", "."}]
    if not parts or ".." in parts:
        raise EventError("name", f"{name!r} is no path below the run's artifacts")
    return "/".join(parts)
