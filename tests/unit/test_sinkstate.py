"""A sink's state goes into the heartbeat when a heartbeat can carry it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bus.group.heartbeat import Heartbeat, decode_heartbeat
from bus.topics import Topics
from subscribers.worker.consumer import SinkConsumer
from subscribers.worker.sinkstate import MAX_STATE_BYTES, SinkState
from tests.fixtures.roadsinks import MemoryLetters, MemorySink


class StateSink(MemorySink):
    """Shows what it is told to."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self.make = make

    def state(self) -> dict[str, Any]:
        shown: dict[str, Any] = self.make()
        return shown


def _raise() -> None:
    raise RuntimeError("a bug")


async def test_a_state_travels_with_the_heartbeat() -> None:
    state = {"uploads": [{"run": "r1", "percent": 40}], "token_days": 3.5}
    consumer = SinkConsumer(StateSink(lambda: state), Topics(), 4, None, MemoryLetters())
    raw = msgspec.json.encode(Heartbeat("a", 4, report=consumer.report()))
    assert decode_heartbeat(raw).report["sink"] == state
    empty = SinkConsumer(StateSink(dict), Topics(), 4, None, MemoryLetters())
    assert "sink" not in empty.report()
    assert "sink" not in SinkConsumer(MemorySink(), Topics(), 4, None, MemoryLetters()).report()


@pytest.mark.parametrize(
    "make",
    [
        _raise,
        lambda: None,
        lambda: ["no", "dict"],
        lambda: {"a": asyncio.Event()},
        lambda: {"a": "\ud800"},
        lambda: {1: 2},
        lambda: {"a": "x" * MAX_STATE_BYTES},
    ],
)
def test_a_state_that_cannot_be_carried_is_left_out_with_one_warning(
    make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        state = SinkState(StateSink(make))
        assert [state.read() for _ in range(3)] == [{}] * 3

    asyncio.run(main())
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == "WARNING"
