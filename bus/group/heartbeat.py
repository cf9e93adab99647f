"""What the members of a group tell each other, on ``groups/{group}/{member}``."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bus.errors import EventError
from bus.topics import SLOTS

__all__ = ["Heartbeat", "decode_heartbeat"]

_Shards = Annotated[int, Meta(ge=1, le=SLOTS)]
_Shard = Annotated[int, Meta(ge=0, lt=SLOTS)]


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
    shards: _Shards
    owned: list[_Shard] = []
    idle: list[_Shard] = []
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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError("heartbeat", str(error)) from error
