"""What one source has published and what became of it: which event to send, and when again.

Pure: numbers and times in, ids to send out. An event is *waiting* from its cut until the log group
says that it is stored; PUBACK only means that a broker holds it in memory. It is sent again

- when an event published after it is stored and it is not: brokers keep the order of one
  connection, so it was dropped on the way. Only such holes are sent again, and at once;
- when the log group has a new session, which cannot hold what was published before it;
- when the log group reports the shard idle although the event was acknowledged a while ago;
- as the last resort after a long time, with backoff, and only while a log worker lives.

An hour without a log group therefore sends nothing twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from bus.idranges import IdRanges

__all__ = ["Outbox"]

IDLE_GRACE_SECONDS = 1.0
"""How long after PUBACK an idle shard proves that the event is not in its queue."""

LAST_RESORT_SECONDS = 30.0
RESEND_CAP_SECONDS = 300.0
RESENDS_AT_ONCE = 256
"""So many events are sent again before the log has to confirm some: a bounded queue holds them."""


@dataclass(slots=True)
class _Waiting:
    size: int
    first_turn: int = 0
    """When it was first published, as a count of publishes; 0: by an earlier shipper, or never."""
    last_turn: int = 0
    acked_at: float | None = None
    is_queued: bool = True


@dataclass(slots=True)
class Outbox:
    """The events of one source that are not stored yet.

    Attributes:
        stored: Ids the log group has confirmed.
    """

    stored: IdRanges = field(default_factory=IdRanges)
    _waiting: dict[int, _Waiting] = field(default_factory=dict)
    _queue: deque[int] = field(default_factory=deque)
    _turn: int = 0
    _in_flight: set[int] = field(default_factory=set)
    _resends: int = 0
    _resend_after: float = 0.0
    _stored_turn: int = 0
    _published_bytes: int = 0

    def add(self, number: int, size: int) -> None:
        """A new event, to be sent."""
        if number not in self.stored:
            self._waiting[number] = _Waiting(size)
            self._queue.append(number)

    def recover(self, numbers: Iterable[tuple[int, int]], now: float) -> None:
        """Events (id, size) cut by an earlier shipper, lowest first.

        Only the last is sent: the answer tells which others the log lacks.
        """
        for number, size in numbers:
            self._waiting[number] = _Waiting(size, is_queued=False, acked_at=now)
            self._published_bytes += size
        if self._waiting:
            self._send_again([max(self._waiting)])

    def next_to_send(self) -> int | None:
        """The id to publish next; None when there is nothing to send now."""
        while self._queue:
            number = self._queue[0]
            waiting = self._waiting.get(number)
            if waiting is not None and waiting.is_queued:
                return number
            self._queue.popleft()
        return None

    def sent(self, number: int) -> None:
        """The event was handed to the broker connection."""
        self._queue.popleft()
        self._turn += 1
        waiting = self._waiting[number]
        waiting.is_queued = False
        self._published_bytes += waiting.size
        waiting.acked_at = None
        waiting.first_turn = waiting.first_turn or self._turn
        waiting.last_turn = self._turn
        self._in_flight.add(number)

    def acked(self, number: int, now: float) -> None:
        """The broker has acknowledged the event."""
        self._in_flight.discard(number)
        if number in self._waiting:
            self._waiting[number].acked_at = now

    def give_up(self, number: int) -> None:
        """The event can no longer be made: the journal has lost it."""
        self._remove(number)

    def link_lost(self) -> None:
        """What the broker has not acknowledged is to be sent again on the next link."""
        self._send_again(sorted(self._in_flight))
        self._in_flight.clear()

    def confirmed(self, stored: IdRanges) -> bool:
        """The log group says what it has stored; False when that is nothing new."""
        before = len(self._waiting)
        for number in [n for n in self._waiting if n in stored]:
            self._stored_turn = max(self._stored_turn, self._waiting[number].first_turn)
            self._remove(number)
        self.stored = stored
        # Published before something that arrived, and not here: lost on the way.
        self._send_again(
            n
            for n, w in self._waiting.items()
            if w.last_turn < self._stored_turn and w.acked_at is not None
        )
        is_news = len(self._waiting) < before
        if is_news:
            self._resends = 0
            self._resend_after = 0.0
        return is_news

    def session_began(self, heard_at: float) -> None:
        """The log group's session of our shard began empty, before ``heard_at``."""
        self._send_again(n for n, w in self._waiting.items() if self._acked_before(w, heard_at))

    def shard_idle(self, now: float) -> None:
        """The log group has nothing of our shard in hand."""
        old = [
            n for n, w in self._waiting.items() if self._acked_before(w, now - IDLE_GRACE_SECONDS)
        ]
        if old and now >= self._resend_after:
            self._back_off(now, IDLE_GRACE_SECONDS)
            self._send_again(old)

    def tick(self, now: float, is_log_alive: bool) -> None:
        """Send again what has waited far too long, if anybody is there to store it."""
        if not is_log_alive or now < self._resend_after:
            return
        old = [
            n for n, w in self._waiting.items() if self._acked_before(w, now - LAST_RESORT_SECONDS)
        ]
        if old:
            self._back_off(now, LAST_RESORT_SECONDS)
            self._send_again(old)

    @property
    def waiting(self) -> int:
        """Events not confirmed as stored."""
        return len(self._waiting)

    @property
    def published_bytes(self) -> int:
        """Size of the events that are published and not confirmed."""
        return self._published_bytes

    @property
    def lowest(self) -> int | None:
        """The lowest id that is not confirmed; None when all are."""
        return min(self._waiting, default=None)

    def _acked_before(self, waiting: _Waiting, time: float) -> bool:
        return waiting.acked_at is not None and waiting.acked_at < time

    def _back_off(self, now: float, base_seconds: float) -> None:
        self._resends += 1
        delay = min(base_seconds * 2 ** min(self._resends, 16), RESEND_CAP_SECONDS)
        self._resend_after = now + delay

    def _send_again(self, numbers: Iterable[int]) -> None:
        """Queue events in front of the new ones, lowest first."""
        again = sorted(n for n in numbers if not self._waiting[n].is_queued)
        for number in reversed(again[:RESENDS_AT_ONCE]):
            self._waiting[number].is_queued = True
            self._published_bytes -= self._waiting[number].size
            self._queue.appendleft(number)

    def _remove(self, number: int) -> None:
        waiting = self._waiting.pop(number)
        self._in_flight.discard(number)
        if not waiting.is_queued:
            self._published_bytes -= waiting.size
