"""Heartbeats of shippers, on ``nodes/{node}/{spool}``; also their last will."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from bus.errors import EventError

__all__ = ["NodeHeartbeat", "decode_node", "encode_node"]

_Id = Annotated[int, Meta(ge=1, lt=10**18)]


class NodeHeartbeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a shipper tells about its node.

    Attributes:
        sources: Per source the lowest id its journal still holds: all below is stored or gone.
        live: All sources it serves, also those of which everything is stored.
        waiting: Events published and not yet confirmed as stored.
        backlog_bytes: Journal bytes not yet published.
        stopping: Sources that hold the note that they were asked to stop, or did a moment ago.
        has_left: The shipper has gone; also its last will.
    """

    node: str
    spool: str
    sources: dict[str, _Id] = {}
    live: list[str] = []
    waiting: int = 0
    backlog_bytes: int = 0
    stopping: list[str] = []
    has_left: bool = False


_decoder = msgspec.json.Decoder(NodeHeartbeat)


def encode_node(beat: NodeHeartbeat) -> bytes:
    """Write a heartbeat."""
    return msgspec.json.encode(beat)


def decode_node(payload: bytes) -> NodeHeartbeat:
    """Read a heartbeat.

    Raises:
        EventError: It is none.
    """
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError("node", str(error)) from error
