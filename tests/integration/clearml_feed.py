"""What the tests of the live ClearML sink share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bus.config import Settings
from bus.sinks import RunRef
from subscribers.clearml.access import choose
from tests.fixtures.missing import missing

if TYPE_CHECKING:
    from subscribers.clearml.live import LiveSink
    from tests.fixtures.clearml.server import ClearmlServer

__all__ = ["QUIET", "make_live", "task_of"]

QUIET = pytest.mark.filterwarnings(
    # clearml 2.1's reader of HOCON with pyparsing 3.3.
    "ignore:.* deprecated.* use '[a-z_]+':DeprecationWarning"
)


def make_live(
    server: ClearmlServer, home: Path, clock: Callable[[], float] | None = None, **environ: str
) -> LiveSink:
    """The sink as the worker makes it, away from this user's settings."""
    try:
        from subscribers.clearml.live import LiveSink
    except ModuleNotFoundError:
        missing("clearml", "pip install 'trainbus[clearml]'")
    variables: Mapping[str, str] = {
        **server.environ,
        "TRAINBUS_HOME": str(home),
        "CLEARML_CONFIG_FILE": str(home / "none"),
        **environ,
    }
    Settings.from_environment(variables)
    access = choose(variables).access
    assert access is not None
    return LiveSink(access) if clock is None else LiveSink(access, clock)


def task_of(server: ClearmlServer, ref: RunRef) -> dict[str, Any]:
    """The task of a run; it must be the only one."""
    (task,) = [one for one in server.tasks() if f"trainbus-run:{ref.run}" in one["tags"]]
    return task
