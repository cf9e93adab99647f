"""What the shipper's connection hears, and what it does without."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from bus.config import Settings
from bus.control import StopNotice, encode_stop
from bus.errors import BrokerError
from bus.mqtt import Link
from bus.nodes import NodeHeartbeat
from publishers.shipper.uplink import Uplink
from tests.fixtures.roadparts import FakeLink


class Heard:
    """An uplink without a connection, and what it passed on."""

    def __init__(self, home: Path) -> None:
        self.link = FakeLink()
        self.stops: list[tuple[str, str, StopNotice]] = []
        settings = Settings.from_environment({"TRAINBUS_HOME": str(home)})
        self.topics = settings.topics
        self.uplink = Uplink(
            settings.broker,
            settings.topics,
            "node-0",
            "spool",
            lambda *_: None,
            lambda *_: None,
            lambda *heard: self.stops.append(heard),
            lambda _: None,
            lambda: NodeHeartbeat("node-0", "spool"),
        )

    def deliver(self, topic: str, payload: bytes) -> None:
        self.uplink._on_delivery(self.link.deliver(topic, payload))


@pytest.fixture
def heard(tmp_path: Path) -> Heard:
    return Heard(tmp_path)


def test_a_notice_is_passed_on_with_the_run_that_its_topic_names(heard: Heard) -> None:
    heard.deliver(heard.topics.control("my project", "r.1"), encode_stop("why", "hub", 1.0))
    assert heard.stops == [("my project", "r.1", StopNotice("why", "hub", 1.0))]
    assert len(heard.link.acked) == 1


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("trainbus/v1/control/p/r", b"nonsense"),
        ("trainbus/v1/control/p/r", b'{"action":"pause","reason":"","by":"b","time":1}'),
        ("trainbus/v1/control/p/r", b"[" * 100_000),
        ("trainbus/v1/control/p", encode_stop("", "b", 1.0)),
        ("trainbus/v1/control/p/r/s", encode_stop("", "b", 1.0)),
        ("trainbus/v1/control/p/a..b", encode_stop("", "b", 1.0)),
    ],
)
def test_a_notice_that_is_none_is_acknowledged_reported_and_ignored(
    heard: Heard, topic: str, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    heard.deliver(topic, payload)
    assert heard.stops == []
    assert len(heard.link.acked) == 1
    assert "ignored a message on trainbus/v1/control/p" in caplog.text
    assert len(caplog.text) < 1000


class Refusing:
    """A link whose broker does not answer a subscription as one would wish."""

    def __init__(self, error: BrokerError) -> None:
        self.error = error

    async def subscribe(self, filters: Any) -> None:
        raise self.error


async def test_a_broker_that_does_not_allow_control_is_shipped_to_all_the_same(
    heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    refusing = cast("Link", Refusing(BrokerError("refused", is_refusal=True)))
    for _ in range(3):
        await heard.uplink._listen_for_stops(refusing)
    assert [record.message for record in caplog.records] == [
        "runs cannot be asked to stop from outside: refused"
    ]


async def test_a_subscription_that_nobody_answers_is_a_lost_link(heard: Heard) -> None:
    with pytest.raises(BrokerError, match="timed out"):
        await heard.uplink._listen_for_stops(cast("Link", Refusing(BrokerError("timed out"))))
