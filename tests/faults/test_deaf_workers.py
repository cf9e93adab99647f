"""Workers that both reach the broker and do not hear each other: nothing lost, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bus.broker import EmbeddedBroker
from tests.faults.appending import AppendedRows, published, start_worker
from tests.faults.road import Road
from tests.fixtures.processes import Processes, wait_until

SHARDS = 8
FIRST_MINUTE_SWAPS = 6

# May say all, and hear all but the heartbeats of its group.
ACL = """
topic readwrite #
user deaf
topic write #
topic read trainbus/v1/events/#
topic read trainbus/v1/replay/#
topic read trainbus/v1/stored/#
"""


@pytest.fixture
def acl_road(tmp_path: Path, mosquitto: EmbeddedBroker, processes: Processes) -> Iterator[Road]:
    """A road over a Mosquitto with a user that does not hear heartbeats."""
    mosquitto.stop()
    acl_file = tmp_path / "acl"
    acl_file.write_text(ACL)
    acl_file.chmod(0o644)
    usual = mosquitto._engine
    mosquitto._engine = replace(
        usual, settings=lambda port, data: f"{usual.settings(port, data)}acl_file {acl_file}\n"
    )
    mosquitto.start()
    built = Road(tmp_path, mosquitto, processes)
    yield built
    built.close()


@pytest.mark.parametrize("deaf", ["one", "both"])
def test_workers_that_do_not_hear_each_other_write_everything_once(
    acl_road: Road, deaf: str
) -> None:
    road = acl_road
    sink = AppendedRows(road.folder / "appended.db")
    address = road.broker.address
    is_deaf = {"TRAINBUS_BROKER": f"mqtt://deaf@{address.host}:{address.port}"}
    road.worker("log")
    first = start_worker(road, sink, environ=is_deaf)
    road.wait_working("appending")
    trainers = [
        road.trainer(f"run{number}", "--steps", "1200", "--pace", "0.02") for number in range(4)
    ]
    wait_until(lambda: len({run for run, *_ in sink.rows()}) == 4, 60, "rows of all runs")
    second = start_worker(road, sink, environ=is_deaf if deaf == "both" else {})
    wait_until(lambda: _most_opened(road) > 1, 30, "a contest")
    for trainer in trainers:
        assert trainer.wait(90) == 0
    wait_until(lambda: len(sink.rows()) >= len(published(road)), 60, "all events")
    assert sink.written() == published(road)
    assert first.is_running
    assert second.is_running
    assert _most_opened(road) - 1 <= FIRST_MINUTE_SWAPS
    warned = "left alone for" in first.stderr + second.stderr
    assert warned == (deaf == "both")


def _most_opened(road: Road) -> int:
    """How often the session of the most contested shard was connected to."""
    log = road.broker.log_file.read_text(errors="replace")
    return max(log.count(f" as trainbus-v1-appending-{shard} ") for shard in range(SHARDS))
