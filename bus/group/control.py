"""Removing the sessions of a group that is not at work, so that it begins anew from the event log.

What the sessions had queued is not needed: every member reads from the log what its sink has not,
and shippers send the log group again what it has not confirmed.
"""

from __future__ import annotations

import asyncio

from bus.config import BrokerAddress
from bus.errors import BrokerError, ConfigError
from bus.group.listen import listen
from bus.group.membership import HEARTBEAT_SECONDS, MISSED_HEARTBEATS
from bus.mqtt import open_link
from bus.retry import Backoff
from bus.topics import SLOTS, Topics

__all__ = ["LISTEN_SECONDS", "remove_sessions", "require_nobody"]

LISTEN_SECONDS = HEARTBEAT_SECONDS * (MISSED_HEARTBEATS + 0.5)
"""Long enough to hear every member that lives."""

_AT_ONCE = 8
_ATTEMPTS = 4


async def require_nobody(
    address: BrokerAddress, topics: Topics, group: str, seconds: float = LISTEN_SECONDS
) -> None:
    """Make sure that no member of a group is at work.

    Raises:
        ConfigError: There is one.
        BrokerError: Nobody answers at the address.
    """
    heard = await listen(address, topics, [topics.members_filter(group)], seconds)
    members = [beat.member for beat in heard.of_group(group)]
    if members:
        raise ConfigError(
            f"group {group!r} is at work ({', '.join(members[:3])}"
            f"{', …' if len(members) > 3 else ''}): stop its workers first"
        )


async def remove_sessions(address: BrokerAddress, topics: Topics, group: str) -> None:
    """Remove every session a group may have, of whatever number of shards it was made.

    Raises:
        BrokerError: The broker refuses, or is gone.
    """
    turns = asyncio.Semaphore(_AT_ONCE)

    async def remove(shard: int) -> None:
        async with turns:
            await _remove(address, topics.session(group, shard))

    await asyncio.gather(*(remove(shard) for shard in range(SLOTS)))


async def _remove(address: BrokerAddress, session: str) -> None:
    backoff = Backoff()
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            # MQTT 3.1.1, 3.1.2.4: a clean session discards the one that is there.
            async with open_link(address, session, is_clean=True):
                return
        except BrokerError:
            if attempt == _ATTEMPTS:
                raise
            # NATS refuses a client id that returns within about a second.
            await asyncio.sleep(backoff.next_seconds())
