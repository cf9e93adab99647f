"""The settings files of the embedded brokers: text in, nothing else.

Both listen on 127.0.0.1 alone and keep what they have taken until a consumer acknowledges it. The
defaults do not: Mosquitto drops everything beyond 1,000 queued messages while it still answers
PUBACK, and writes its data every half an hour.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["HOST", "mosquitto_settings", "nats_settings"]

HOST = "127.0.0.1"

_MAX_IN_FLIGHT = 20
"""Messages a consumer may hold unacknowledged: more gains nothing and fills a stalled worker."""

_NATS_MAX_IN_FLIGHT = 100
"""The same on NATS, where it bounds a subscription and also the session as a whole.

What is over the bound of the session is not sent before ``ack_wait`` has passed, and so out of
order: a session with many busy subscriptions needs more room than one of Mosquitto. All
subscriptions of a session together may hold 65,535, which the default of 1,024 breaks at 64.
"""

_SAVE_AFTER_CHANGES = 1000

_ACK_WAIT_SECONDS = 10
"""NATS sends an unacknowledged message again after this time; its own default is 30 s."""

_MAX_MESSAGE_BYTES = 1024 * 1024
"""Four times the largest event: a stored-ack with many holes is larger than any event."""


def mosquitto_settings(port: int, data: Path, *, is_root: bool) -> str:
    """The text of ``mosquitto.conf``.

    Args:
        port: TCP port to listen on.
        data: Folder of the saved sessions and queues; must exist.
        is_root: Mosquitto is started by root. It would change to a user that cannot write here.
    """
    lines = [
        f"listener {port} {HOST}",
        "allow_anonymous true",
        "set_tcp_nodelay true",
        "persistence true",
        f"persistence_location {data}/",
        f"autosave_interval {_SAVE_AFTER_CHANGES}",
        "autosave_on_changes true",
        "max_queued_messages 0",
        f"max_inflight_messages {_MAX_IN_FLIGHT}",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
    ]
    if is_root:
        lines.append("user root")
    return "\n".join(lines) + "\n"


def nats_settings(port: int, data: Path) -> str:
    """The text of ``nats.conf``, with the MQTT gateway on and the other ports left to chance.

    Args:
        port: TCP port of the MQTT listener.
        data: Folder of the JetStream store; must exist.
    """
    return f"""\
server_name: trainbus
host: {HOST}
port: -1
max_payload: {_MAX_MESSAGE_BYTES}
jetstream {{
  store_dir: {_quote(str(data))}
}}
mqtt {{
  host: {HOST}
  port: {port}
  ack_wait: "{_ACK_WAIT_SECONDS}s"
  max_ack_pending: {_NATS_MAX_IN_FLIGHT}
}}
"""


def _quote(text: str) -> str:
    """A string as the settings file of NATS takes it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
