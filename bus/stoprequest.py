"""Asking a run to stop until everybody who is meant has been told.

A notice may meet a shipper that is just connecting again, or is being started again: nobody would
keep it. So the processes that are meant are named, and named again to each shipper whose heartbeat
shows one of them without the note. A training that was started anew since is never among them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

from bus.config import BrokerAddress
from bus.control import MAX_SOURCES, encode_stop
from bus.errors import BrokerError, EventError
from bus.mqtt import Delivery, Link, open_link
from bus.nodes import NodeHeartbeat, decode_node
from bus.source import Source
from bus.topics import Topics

__all__ = ["LISTEN_SECONDS", "StopRequest", "ask_to_stop", "named_in_the_log"]

LISTEN_SECONDS = 2.5
"""Two heartbeats, and a little: after it every node that lives has been heard."""


def named_in_the_log(sources: Collection[str], finished: Collection[str]) -> list[str]:
    """The processes of a run that should be at work, going by the event log.

    Of each rank the highest attempt counts; processes of lost nodes are not waited for.

    Args:
        sources: All sources of the run.
        finished: Those that have ended.
    """
    parsed = {name: Source.parse(name) for name in sources}
    highest: dict[int, int] = {}
    for source in parsed.values():
        highest[source.rank] = max(highest.get(source.rank, 0), source.attempt)
    return [
        name
        for name, source in sorted(parsed.items())
        if name not in finished
        and not source.is_loss
        and str(source.loss()) not in parsed
        and source.attempt == highest[source.rank]
    ]


class StopRequest:
    """Who is meant by one request, and who has confirmed it. Pure.

    Attributes:
        named: The processes that are meant: those given, and those heard of since that are older
            than the request.
        confirmed: Those of them that hold the note.
        heard: Those of them that a shipper serves.

    Args:
        run: Its id.
        named: Processes that are known to be at work.
        ended: Processes that are known to have ended.
        asked_at: When it was asked, Unix seconds.
        is_patient: Nobody heard of does not mean that nobody is there.
    """

    def __init__(
        self,
        run: str,
        named: Iterable[str],
        ended: Collection[str],
        asked_at: float,
        *,
        is_patient: bool,
    ) -> None:
        self.named = set(named)
        self.confirmed: set[str] = set()
        self.heard: set[str] = set()
        self._run = run
        self._ended = frozenset(ended)
        self._asked_at = asked_at
        self._is_patient = is_patient

    def hear(self, beat: NodeHeartbeat) -> list[str]:
        """Take a heartbeat of a shipper; gives those it serves that are to be told, or again."""
        if beat.has_left:
            return []
        served = [name for name in beat.live if self._is_meant(name)]
        self.named.update(served)
        self.heard.update(served)
        self.confirmed.update(self.named.intersection(beat.stopping))
        return sorted(self.named.intersection(served) - self.confirmed)

    def _is_meant(self, name: str) -> bool:
        if name in self.named:
            return True
        try:
            source = Source.parse(name)
        except EventError:
            return False
        return (
            source.run == self._run
            and name not in self._ended
            and source.is_older_than(self._asked_at)
        )

    @property
    def unconfirmed(self) -> list[str]:
        """Those that are meant and have not confirmed."""
        return sorted(self.named - self.confirmed)

    @property
    def is_done(self) -> bool:
        """Nothing is left to wait for, once every node that lives has been heard."""
        return not self.unconfirmed and bool(self.named or not self._is_patient)


async def ask_to_stop(
    address: BrokerAddress,
    topics: Topics,
    place: tuple[str, str],
    request: StopRequest,
    message: tuple[str, str, float],
    wait_seconds: float,
) -> None:
    """Send a request until all have confirmed it.

    Args:
        address: The broker.
        topics: Where to.
        place: Project and run.
        request: Who is meant; tells afterwards who has confirmed.
        message: Reason, who asks, and when (Unix seconds).
        wait_seconds: So long at the most.

    Raises:
        BrokerError: Nobody answers there, or the link was lost.
        EventError: The names of project or run cannot be a part of a topic.
    """
    topic = topics.control(*place)

    def tell(link: Link, names: Sequence[str]) -> None:
        for start in range(0, len(names), MAX_SOURCES):
            link.send(topic, encode_stop(*message, names[start : start + MAX_SOURCES]))

    def on_delivery(delivery: Delivery) -> None:
        delivery.ack()
        with suppress(EventError, BrokerError):
            tell(delivery.link, request.hear(decode_node(delivery.payload)))

    client_id = f"{topics.prefix.replace('/', '-')}-stop-{secrets.token_hex(4)}"
    async with open_link(address, client_id, on_delivery=on_delivery) as link:
        await link.subscribe([topics.nodes_filter], qos=0)
        tell(link, request.unconfirmed)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < wait_seconds and not link.is_lost:
            if request.is_done and loop.time() - began >= LISTEN_SECONDS:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await link.wait_lost()
        if link.is_lost:
            raise BrokerError(
                f"the connection to the broker at {address} was lost: ask again, "
                "it does no harm to those that were told"
            )
