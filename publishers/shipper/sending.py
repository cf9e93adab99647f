"""Publishes the events of all sources, as many as broker and event log have room for."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable

from bus.errors import BrokerError, JournalError
from bus.mqtt import Link
from bus.topics import Topics
from publishers.shipper.active import Active
from publishers.shipper.discovery import SayOnce
from publishers.shipper.outbox import OVERHEAD_BYTES

__all__ = ["Sending"]

logger = logging.getLogger(__name__)

IN_FLIGHT_EVENTS = 64
"""Published and not yet acknowledged by the broker."""
UNSTORED_BYTES = 32 * 1024 * 1024
"""Published and not yet stored, while a log worker lives: its queue stays short."""
UNSTORED_BYTES_WITHOUT_LOG = 256 * 1024 * 1024
"""The same while none lives: the sinks get the events meanwhile."""

GONE_ERRORS = frozenset({errno.ENOENT, errno.EIO})
"""A file or a part of it that will not come back; anything else may pass."""


class Sending:
    """The windows of one shipper.

    Attributes:
        published: Events handed to the broker, resends included.

    Args:
        topics: Where events go.
        current_link: Gives the connection to the broker; None while it is lost.
        clock: Monotonic seconds.
        on_ack: Called when the broker has acknowledged an event.
        say_once: Warns of what is tried again.
    """

    def __init__(
        self,
        topics: Topics,
        current_link: Callable[[], Link | None],
        clock: Callable[[], float],
        on_ack: Callable[[], None],
        say_once: SayOnce,
    ) -> None:
        self.published = 0
        self._topics = topics
        self._current_link = current_link
        self._clock = clock
        self._on_ack = on_ack
        self._say_once = say_once
        self._in_flight = 0
        self._turn = 0

    def link_changed(self) -> None:
        """The link came or went: nothing is in flight on it any more."""
        self._in_flight = 0

    def send(self, sources: Iterable[Active], is_log_alive: bool) -> None:
        """Publish what the windows allow, one event of each source in turn."""
        link = self._current_link()
        if link is None or link.is_lost:
            return
        actives = list(sources)
        room = UNSTORED_BYTES if is_log_alive else UNSTORED_BYTES_WITHOUT_LOG
        room -= sum(active.outbox.published_bytes for active in actives)
        # Begin with another source each time: none is always last when the window is short.
        self._turn += 1
        first = self._turn % max(len(actives), 1)
        queue = actives[first:] + actives[:first]
        while queue and self._in_flight < IN_FLIGHT_EVENTS:
            active = queue.pop(0)
            # What is sent again takes no room: it is what the room waits for.
            size = self._send_one(active, link, room > 0)
            if size:
                room -= size
                queue.append(active)

    def _send_one(self, active: Active, link: Link, has_room: bool) -> int:
        """Publish the next event of a source; the room it takes, or 0 when there is none."""
        number = active.outbox.next_to_send(has_room)
        if number is None:
            return 0
        journal = active.journal
        try:
            kind, raw = journal.event(number)
        except (OSError, JournalError) as error:
            if isinstance(error, OSError) and error.errno not in GONE_ERRORS:
                self._say_once(active.about(f"cannot read the spool, will retry: {error}"))
                return 0
            logger.error("run %s: event %d is lost: %s", journal.run, number, error)
            active.outbox.give_up(number)
            active.unsent.pop(number, None)
            journal.give_up(number)
            return 1
        topic = self._topics.event(journal.header.project, journal.run, kind)
        try:
            link.send(topic, raw, lambda: self._acked(active, number, link))
        except BrokerError:
            return 0
        active.outbox.sent(number)
        active.unsent.pop(number, None)
        self._in_flight += 1
        self.published += 1
        return len(raw) + OVERHEAD_BYTES

    def _acked(self, active: Active, number: int, link: Link) -> None:
        if link is not self._current_link():
            return
        self._in_flight -= 1
        active.outbox.acked(number, self._clock())
        active.journal.forget_bytes(number)
        self._on_ack()
