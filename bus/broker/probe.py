"""Whether something that speaks MQTT answers at an address."""

from __future__ import annotations

import secrets
import socket

__all__ = ["answers_mqtt", "free_port", "is_port_free"]

_CONNACK_ACCEPTED = b"\x20\x02\x00\x00"


def answers_mqtt(host: str, port: int, timeout_seconds: float = 1.0) -> bool:
    """Connect once, as an MQTT 3.1.1 client with a clean session, and see whether it is accepted.

    An open TCP port is not enough: NATS opens it before its store is ready.
    """
    try:
        with socket.create_connection((host, port), timeout=timeout_seconds) as link:
            link.sendall(_connect_packet(f"trainbus-probe-{secrets.token_hex(4)}"))
            answer = b""
            while len(answer) < len(_CONNACK_ACCEPTED) and (part := link.recv(4)):
                answer += part
            link.sendall(b"\xe0\x00")  # DISCONNECT
    except OSError:
        return False
    return answer == _CONNACK_ACCEPTED


def free_port(host: str) -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        port: int = listener.getsockname()[1]
        return port


def is_port_free(host: str, port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as listener:
        # As servers do: connections of the last owner that still time out are no obstacle.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(1)
        except OSError:
            return False
        return True


def _connect_packet(client_id: str) -> bytes:
    """CONNECT with protocol level 4, clean session and a keepalive of 10 s."""
    name = client_id.encode()
    body = b"\x00\x04MQTT\x04\x02\x00\x0a" + len(name).to_bytes(2, "big") + name
    return bytes((0x10, len(body))) + body
