"""What the members of a group tell each other, on ``groups/{group}/{member}``."""

from __future__ import annotations

from typing import Any

import msgspec

from bus.errors import EventError

__all__ = ["Heartbeat", "decode_heartbeat"]


class Heartbeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a member tells its group, and anyone who looks.

    Attributes:
        shards: The number of shards it was started with.
        owned: Shards whose session it holds.
        idle: Those of them with nothing in hand, and nothing received for a while.
        sessions: Per shard, the name of a session that began empty at this member.
        report: Counters of the consumer.
        has_left: It has gone; also the last will.
    """

    member: str
    shards: int
    owned: list[int] = []
    idle: list[int] = []
    sessions: dict[str, str] = {}
    report: dict[str, Any] = {}
    has_left: bool = False


_heartbeat_decoder = msgspec.json.Decoder(Heartbeat)


def decode_heartbeat(payload: bytes) -> Heartbeat:
    """Read a heartbeat.

    Raises:
        EventError: It is none.
    """
    try:
        return _heartbeat_decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise EventError("heartbeat", str(error)) from error
