"""Replay: the pace by a virtual clock, and the order of sending."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

import pytest

from bus.errors import BrokerError, ConfigError, EventError, LogError
from bus.eventlog import LoggedEvent
from bus.events import Event, encode
from bus.kinds import Tags
from bus.replay import WINDOW, Pace, parse_speed, replay
from bus.topics import Topics

SOURCE = "/runs/r1/0/1-1-0123456789abcdef/n"
TOPICS = Topics()


def event(number: int, time: float = 0.0) -> LoggedEvent:
    data = Tags({"n": str(number)})
    raw = encode(Event("tags", SOURCE, number, "r1", "digits", "mlp", time, data))
    return LoggedEvent(number, SOURCE, number, "tags", time, raw)


class VirtualTime:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


class FakeLink:
    """Takes what is published, and says when by a virtual clock."""

    def __init__(self, time: VirtualTime, fails_at: int | None = None) -> None:
        self.time = time
        self.fails_at = fails_at
        self.sent: list[tuple[float, str, bytes]] = []
        self.open_calls = 0
        self.most_open_calls = 0

    async def publish(self, topic: str, payload: bytes) -> None:
        self.sent.append((self.time.now - 1000.0, topic, payload))
        if len(self.sent) == self.fails_at:
            raise BrokerError("the connection to the broker is lost")
        self.open_calls += 1
        self.most_open_calls = max(self.most_open_calls, self.open_calls)
        await asyncio.sleep(0)
        self.open_calls -= 1


async def play(events: Iterable[LoggedEvent], speed: float | None, link: FakeLink) -> list[int]:
    sizes: list[int] = []
    await replay(
        iter(events),
        link,
        TOPICS,
        "mlflow",
        Pace(speed),
        on_sent=sizes.append,
        clock=link.time.clock,
        sleep=link.time.sleep,
    )
    return sizes


@pytest.mark.parametrize(("text", "speed"), [("1x", 1), ("10x", 10), ("0.5x", 0.5), ("max", None)])
def test_speeds_are_factors_or_max(text: str, speed: float | None) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["", "x", "fast", "0x", "-1x", "nan", "infx"])
def test_other_speeds_are_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match="--speed"):
        parse_speed(text)


@pytest.mark.parametrize(("speed", "factor"), [(1.0, 1.0), (10.0, 0.1), (None, 0.0)])
async def test_events_keep_their_distances_in_time_divided_by_the_speed(
    speed: float | None, factor: float
) -> None:
    times = [50.0, 51.0, 51.5, 60.0]
    link = FakeLink(VirtualTime())
    await play([event(n, t) for n, t in enumerate(times, 1)], speed, link)
    assert [at for at, _, _ in link.sent] == pytest.approx([(t - 50.0) * factor for t in times])


async def test_an_event_that_was_overtaken_is_sent_at_once() -> None:
    link = FakeLink(VirtualTime())
    await play([event(1, 50.0), event(2, 60.0), event(3, 52.0), event(4, 61.0)], 1.0, link)
    assert [at for at, _, _ in link.sent] == [0.0, 10.0, 10.0, 11.0]


def test_being_late_is_made_up_for() -> None:
    pace = Pace(1.0)
    assert pace.delay(50.0, now=0.0) == 0.0
    assert pace.delay(51.0, now=5.0) == 0.0
    assert pace.delay(56.0, now=5.0) == 1.0


async def test_the_exact_bytes_go_to_the_topic_of_the_group_in_order() -> None:
    events = [event(n) for n in range(1, 200)]
    link = FakeLink(VirtualTime())
    sizes = await play(events, None, link)
    assert [raw for _, _, raw in link.sent] == [e.raw for e in events]
    assert {topic for _, topic, _ in link.sent} == {TOPICS.replay("mlflow", "digits", "r1", "tags")}
    assert sizes == [len(e.raw) for e in events]
    assert 1 < link.most_open_calls <= WINDOW


async def test_a_lost_link_ends_the_replay_and_leaves_no_task_behind() -> None:
    link = FakeLink(VirtualTime(), fails_at=5)
    before = asyncio.all_tasks()
    with pytest.raises(BrokerError):
        await play([event(n) for n in range(1, 200)], None, link)
    assert asyncio.all_tasks() == before


async def test_a_log_that_fails_on_the_way_ends_the_replay() -> None:
    def failing() -> Iterator[LoggedEvent]:
        yield event(1)
        raise LogError("the log is away", is_retryable=True)

    with pytest.raises(LogError):
        await play(failing(), None, FakeLink(VirtualTime()))


async def test_what_is_no_event_is_named() -> None:
    bad = LoggedEvent(1, SOURCE, 1, "tags", 0.0, b"nonsense")
    with pytest.raises(EventError):
        await play([bad], None, FakeLink(VirtualTime()))
