"""A road for programs of the frameworks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.broker import EmbeddedBroker
from tests.faults.road import Road
from tests.fixtures.frameworks import INSTALL_SECONDS, FrameworkRoad
from tests.fixtures.frameworks import frameworks as frameworks
from tests.fixtures.processes import Processes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder the time to install what they need."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(INSTALL_SECONDS))


@pytest.fixture
def framework_road(
    frameworks: str, tmp_path: Path, mosquitto: EmbeddedBroker, processes: Processes
) -> Iterator[FrameworkRoad]:
    """Mosquitto, a log on SQLite with its worker, and the interpreter with the frameworks."""
    road = Road(tmp_path, mosquitto, processes)
    road.worker("log")
    road.wait_working("log")
    yield FrameworkRoad(frameworks, road)
    road.close()
