"""The embedded broker as a real process: Mosquitto and NATS pass the same tests."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from bus.broker import EmbeddedBroker
from bus.broker.probe import answers_mqtt
from bus.errors import BrokerError, ConfigError
from tests.fixtures.missing import missing
from tests.fixtures.processes import Processes, wait_until

TOPIC = "trainbus/v1/events/07/digits/r1/metrics"


class Client:
    """A plain MQTT client with a persistent session."""

    def __init__(self, broker: EmbeddedBroker, client_id: str, *topics: str) -> None:
        self.received: list[bytes] = []
        self._connected = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id, clean_session=False, protocol=paho.MQTTv311
        )
        self._client.on_message = self._on_message
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._connected.set()
        self._topics = topics
        self._client.connect(broker.address.host, broker.address.port)
        self._client.loop_start()
        assert self._connected.wait(10)

    def publish(self, payload: bytes, topic: str = TOPIC) -> None:
        message = self._client.publish(topic, payload, qos=1)
        message.wait_for_publish(10)
        assert message.is_published()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, *_: Any) -> None:
        if self._topics:
            self._client.subscribe([(topic, 1) for topic in self._topics])
        else:
            self._connected.set()

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.received.append(bytes(message.payload))


def leave_messages(broker: EmbeddedBroker, count: int) -> None:
    """Queue messages for a session that is not connected."""
    Client(broker, "reader", TOPIC).close()
    writer = Client(broker, "writer")
    for number in range(count):
        writer.publish(b"%d" % number)
    writer.close()


def test_it_listens_on_the_loopback_address_alone(broker: EmbeddedBroker) -> None:
    port = broker.address.port
    assert answers_mqtt("127.0.0.1", port)
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port)}
    for host in others - {"127.0.0.1", "127.0.1.1", "::1"}:
        assert not answers_mqtt(str(host), port, timeout_seconds=0.3)


def test_queued_messages_survive_a_stop_and_a_start(broker: EmbeddedBroker) -> None:
    leave_messages(broker, 50)
    address = broker.address
    broker.stop()
    assert broker.pid is None
    assert broker.start() == address
    reader = Client(broker, "reader", TOPIC)
    wait_until(lambda: len(reader.received) >= 50, what="all queued messages")
    assert reader.received == [b"%d" % number for number in range(50)]
    reader.close()


def test_more_than_the_default_queue_of_mosquitto_is_kept(broker: EmbeddedBroker) -> None:
    leave_messages(broker, 1_500)
    reader = Client(broker, "reader", TOPIC)
    wait_until(lambda: len(reader.received) >= 1_500, what="1,500 queued messages")
    reader.close()


def test_it_comes_back_after_a_kill(broker: EmbeddedBroker) -> None:
    broker.kill()
    assert not answers_mqtt("127.0.0.1", broker.address.port)
    broker.start()
    leave_messages(broker, 1)


def test_a_wiped_broker_has_forgotten_its_sessions(broker: EmbeddedBroker) -> None:
    leave_messages(broker, 5)
    broker.stop()
    broker.wipe()
    broker.start()
    reader, writer = Client(broker, "reader", TOPIC), Client(broker, "writer")
    writer.publish(b"new")
    wait_until(lambda: reader.received, what="the new message")
    assert reader.received == [b"new"]
    reader.close()
    writer.close()


def test_an_event_of_the_largest_size_passes(broker: EmbeddedBroker) -> None:
    reader, writer = Client(broker, "reader", TOPIC), Client(broker, "writer")
    writer.publish(b"x" * 256 * 1024)
    wait_until(lambda: reader.received, what="the large message")
    assert len(reader.received[0]) == 256 * 1024
    reader.close()
    writer.close()


def test_one_session_may_hold_the_subscriptions_of_every_slot(broker: EmbeddedBroker) -> None:
    filters = [
        f"trainbus/v1/{place}/{slot:02x}/+/+/+"
        for slot in range(64)
        for place in ("events", "replay/mlflow")
    ]
    reader = Client(broker, "every-slot", *filters)
    writer = Client(broker, "writer")
    for slot in range(64):
        writer.publish(b"%d" % slot, f"trainbus/v1/events/{slot:02x}/digits/r1/metrics")
    wait_until(lambda: len(reader.received) >= 64, what="a message of every slot")
    reader.close()
    writer.close()


def test_a_running_broker_cannot_be_wiped(broker: EmbeddedBroker) -> None:
    with pytest.raises(BrokerError, match="stop the broker"):
        broker.wipe()


def test_a_second_broker_in_the_same_folder_is_refused(mosquitto: EmbeddedBroker) -> None:
    with pytest.raises(ConfigError, match="in use by a running broker"):
        EmbeddedBroker(mosquitto.folder, "mosquitto").start()


def test_a_port_in_use_is_named(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    port = mosquitto.address.port
    with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is in use"):
        EmbeddedBroker(tmp_path / "second", "mosquitto", port).start()


@pytest.mark.parametrize("engine", ["mosquitto", "nats"])
def test_a_folder_with_blanks_in_its_name_is_fine(
    engine: Literal["mosquitto", "nats"], tmp_path: Path
) -> None:
    try:
        server = EmbeddedBroker(tmp_path / "a folder 'of mine'", engine)
    except ConfigError as error:
        missing(engine, str(error))
    with server as broker:
        leave_messages(broker, 3)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"broker folder .*file/sub"):
        EmbeddedBroker(tmp_path / "file" / "sub").start()


def test_a_broker_that_ends_at_once_shows_what_it_printed(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path, "mosquitto")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mosquitto.db").write_bytes(b"\x00not a database" * 100)
    with pytest.raises(BrokerError, match="ended at once"):
        broker.start()
    assert broker.pid is None


def test_the_command_runs_in_the_foreground_until_sigterm(
    processes: Processes, tmp_path: Path
) -> None:
    command = processes.trainbus("broker", "--port", "0", "--folder", str(tmp_path / "own"))
    wait_until(lambda: "mqtt://127.0.0.1:" in command.stderr, what="the address")
    port = int(command.stderr.partition("mqtt://127.0.0.1:")[2].split()[0])
    assert answers_mqtt("127.0.0.1", port)
    assert command.stop() == 0
    assert not answers_mqtt("127.0.0.1", port)


def test_the_command_outlives_its_terminal_under_nohup(
    processes: Processes, tmp_path: Path
) -> None:
    program = str(Path(sys.executable).with_name("trainbus"))
    command = processes.start(
        ["nohup", program, "broker", "--port", "0", "--folder", str(tmp_path / "own")]
    )
    wait_until(lambda: "mqtt://127.0.0.1:" in command.stderr, what="the address")
    status = Path(f"/proc/{command.pid}/status").read_text()
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
    assert ignored & 1 << (signal.SIGHUP - 1)
    assert command.stop() == 0


def test_the_command_ends_with_an_error_when_the_broker_dies(
    processes: Processes, tmp_path: Path
) -> None:
    command = processes.trainbus("broker", "--port", "0", "--folder", str(tmp_path / "own"))
    wait_until(lambda: "mqtt://127.0.0.1:" in command.stderr, what="the address")
    pid = int(command.stderr.partition("pid ")[2].partition(")")[0])
    os.kill(pid, signal.SIGKILL)
    assert command.wait() == 1
    assert "the broker ended by itself" in command.stderr


def test_the_command_says_that_its_port_is_in_use(
    processes: Processes, mosquitto: EmbeddedBroker, tmp_path: Path
) -> None:
    port = str(mosquitto.address.port)
    command = processes.trainbus("broker", "--port", port, "--folder", str(tmp_path / "own"))
    assert command.wait() == 2
    assert "is in use" in command.stderr
    assert "Traceback" not in command.stderr
