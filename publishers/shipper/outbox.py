"""What one source has published and what became of it: which event to send, and when again.

Pure: numbers and times in, ids to send out. An event is *waiting* from its cut until the log group
says that it is stored; PUBACK only means that a broker holds it in memory. It is sent again

- when an event published after it is stored and it is not: brokers keep the order of one
  connection, so it was dropped on the way. Only such holes are sent again, and at once;
- when the log group has a new session, which cannot hold what was published before it;
- when the log group reports the shard idle although the event was acknowledged a while ago;
- as the last resort after a long time, with backoff, and only while a log worker lives.

An hour without a log group therefore sends nothing twice, and an event that the log never takes
is sent again ever more seldom.

An event that can no longer be made is *gone*: the log group is told by the heartbeat, whose lowest
id is then above it, and answers that it need not be waited for.

Thousands of events may wait, and every message asks: what is done per message looks at those that
were published first and stops at the first that is none of its business.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from bus.idranges import IdRanges

__all__ = ["OVERHEAD_BYTES", "Outbox"]

IDLE_GRACE_SECONDS = 1.0
"""How long after PUBACK an idle shard proves that the event is not in its queue."""

LAST_RESORT_SECONDS = 30.0
RESEND_CAP_SECONDS = 300.0
RESENDS_AT_ONCE = 256
"""So many events are sent again before the log has to confirm some: a bounded queue holds them."""

PROMPT_SENDS = 4
"""An event sent so often waits longer and longer before it is sent again: what is wrong with it
is not the road."""

OVERHEAD_BYTES = 1024
"""What an event that waits costs besides its bytes, here and in the queue of the broker."""


@dataclass(slots=True)
class _Waiting:
    size: int
    first_turn: int = 0
    """When it was first published, as a count of publishes; 0: by an earlier shipper, or never
    since all copies are known to be lost."""
    last_turn: int = 0
    sends: int = 0
    acked_at: float | None = None
    is_queued: bool = True

    def is_acked_before(self, time: float) -> bool:
        return self.acked_at is not None and self.acked_at < time

    def may_hurry(self, now: float) -> bool:
        """Whether it may be sent again at once when it turns out missing."""
        if self.sends <= PROMPT_SENDS or self.acked_at is None:
            return True
        pause = min(2.0 ** min(self.sends - PROMPT_SENDS, 16), RESEND_CAP_SECONDS)
        return now - self.acked_at >= pause


@dataclass(slots=True)
class Outbox:
    """The events of one source that are not stored yet.

    Attributes:
        stored: Ids the log group has confirmed.
    """

    stored: IdRanges = field(default_factory=IdRanges)
    _waiting: dict[int, _Waiting] = field(default_factory=dict)
    _published: OrderedDict[int, None] = field(default_factory=OrderedDict)
    """What waits and was published, in the order of the last time."""
    _fresh: deque[int] = field(default_factory=deque)
    _again: list[int] = field(default_factory=list)
    """A heap: lowest first. It may hold what is stored by now."""
    _gone: set[int] = field(default_factory=set)
    _in_flight: set[int] = field(default_factory=set)
    _top: int = 0
    _turn: int = 0
    _stored_turn: int = 0
    _resends: int = 0
    _resend_after: float = 0.0
    _published_bytes: int = 0

    def __post_init__(self) -> None:
        self._top = self.stored.top

    def add(self, number: int, size: int) -> None:
        """A new event, to be sent. Ids come in ascending order."""
        self._top = max(self._top, number)
        self._waiting[number] = _Waiting(size + OVERHEAD_BYTES)
        self._fresh.append(number)

    def recover(self, numbers: Iterable[tuple[int, int]], now: float) -> None:
        """Events (id, size) cut by an earlier shipper, lowest first.

        Only the last is sent: the answer tells which others the log lacks. Ids between them that
        have no cut any more are gone, unless the log has them.
        """
        for number, size in numbers:
            self._gone.update(range(self._top + 1, number))
            self._top = max(self._top, number)
            waiting = _Waiting(size + OVERHEAD_BYTES, is_queued=False, acked_at=now)
            self._waiting[number] = waiting
            self._published[number] = None
            self._published_bytes += waiting.size
        if self._waiting:
            self._send_again([max(self._waiting)])

    def next_to_send(self, may_be_new: bool = True) -> int | None:
        """The id to publish next; None when there is nothing to send now.

        Args:
            may_be_new: False for one that was published before, or none.
        """
        while self._again:
            if self._is_due(self._again[0]):
                return self._again[0]
            heappop(self._again)
        while may_be_new and self._fresh:
            if self._is_due(self._fresh[0]):
                return self._fresh[0]
            self._fresh.popleft()
        return None

    def sent(self, number: int) -> None:
        """The event that :meth:`next_to_send` gave was handed to the broker connection."""
        if self._again and self._again[0] == number:
            heappop(self._again)
        else:
            self._fresh.popleft()
        self._turn += 1
        waiting = self._waiting[number]
        waiting.is_queued = False
        waiting.acked_at = None
        waiting.sends += 1
        waiting.first_turn = waiting.first_turn or self._turn
        waiting.last_turn = self._turn
        self._published[number] = None
        self._published.move_to_end(number)
        self._published_bytes += waiting.size
        self._in_flight.add(number)

    def acked(self, number: int, now: float) -> None:
        """The broker has acknowledged the event."""
        self._in_flight.discard(number)
        if number in self._waiting:
            self._waiting[number].acked_at = now

    def give_up(self, number: int) -> None:
        """The event can no longer be made: the journal has lost it."""
        self._remove(number)
        self._gone.add(number)

    def link_lost(self) -> None:
        """What the broker has not acknowledged is to be sent again on the next link."""
        for number in self._in_flight:
            self._queue_again(number)
        self._in_flight.clear()

    def confirmed(self, stored: IdRanges, now: float) -> list[int]:
        """The log group says what it has stored; gives the ids that are news.

        Ids that were never published are not believed.
        """
        known = IdRanges(
            (first, min(last, self._top)) for first, last in stored if first <= self._top
        )
        news: list[int] = []
        for first, last in known.without(self.stored):
            news.extend(range(first, last + 1))
        for number in news:
            self._gone.discard(number)
            waiting = self._waiting.get(number)
            if waiting is not None:
                self._stored_turn = max(self._stored_turn, waiting.first_turn)
                self._remove(number)
        self.stored.update(known)
        # Published before something that arrived, and not here: lost on the way.
        self._send_again(self._holes(now))
        if news:
            self._resends = 0
            self._resend_after = 0.0
        return news

    def session_began(self, heard_at: float) -> None:
        """The log group's session of our shard began empty, before ``heard_at``."""
        for number in self._published:
            if self._waiting[number].is_acked_before(heard_at):
                # The copies so far are lost: only the next can tell of others that are.
                self._waiting[number].first_turn = 0
        self._send_again(self._acked_before(heard_at, RESENDS_AT_ONCE))

    def shard_idle(self, now: float) -> None:
        """The log group has nothing of our shard in hand."""
        if now < self._resend_after:
            return
        old = self._acked_before(now - IDLE_GRACE_SECONDS, len(self._published))
        if old:
            self._back_off(now, IDLE_GRACE_SECONDS)
            for number in old:
                self._waiting[number].first_turn = 0
            self._send_again([n for n in old if self._waiting[n].may_hurry(now)])

    def tick(self, now: float, is_log_alive: bool) -> None:
        """Send again what has waited far too long, if anybody is there to store it."""
        if not is_log_alive or now < self._resend_after:
            return
        old = self._acked_before(now - LAST_RESORT_SECONDS, RESENDS_AT_ONCE)
        if old:
            self._back_off(now, LAST_RESORT_SECONDS)
            self._send_again(old)

    @property
    def waiting(self) -> int:
        """Events not confirmed as stored, or as not to be waited for."""
        return len(self._waiting) + len(self._gone)

    @property
    def published_bytes(self) -> int:
        """Size of the events that are published and not confirmed, with what each costs besides."""
        return self._published_bytes

    @property
    def lowest(self) -> int | None:
        """The lowest id that can still be sent and is not confirmed; None when all are.

        When only ids are left that are gone, the one above them.
        """
        if self._waiting:
            return min(self._waiting)
        return max(self._gone) + 1 if self._gone else None

    def _is_due(self, number: int) -> bool:
        waiting = self._waiting.get(number)
        return waiting is not None and waiting.is_queued

    def _holes(self, now: float) -> list[int]:
        found: list[int] = []
        for number in self._published:
            waiting = self._waiting[number]
            if waiting.last_turn >= self._stored_turn or len(found) >= RESENDS_AT_ONCE:
                break
            is_out = waiting.acked_at is not None and not waiting.is_queued
            if is_out and waiting.may_hurry(now):
                found.append(number)
        return found

    def _acked_before(self, time: float, limit: int) -> list[int]:
        """What waits for the log since before ``time``, published first first."""
        found: list[int] = []
        for number in self._published:
            waiting = self._waiting[number]
            if waiting.is_queued or waiting.acked_at is None:
                continue
            # Acknowledgements come in the order of publishing.
            if waiting.acked_at >= time or len(found) >= limit:
                break
            found.append(number)
        return found

    def _back_off(self, now: float, base_seconds: float) -> None:
        self._resends += 1
        delay = min(base_seconds * 2 ** min(self._resends, 16), RESEND_CAP_SECONDS)
        self._resend_after = now + delay

    def _send_again(self, numbers: Iterable[int]) -> None:
        """Queue events before the new ones, as many as may be under way at once."""
        for number in numbers:
            if len(self._again) >= RESENDS_AT_ONCE:
                return
            self._queue_again(number)

    def _queue_again(self, number: int) -> None:
        waiting = self._waiting[number]
        if not waiting.is_queued:
            waiting.is_queued = True
            self._published_bytes -= waiting.size
            heappush(self._again, number)

    def _remove(self, number: int) -> None:
        waiting = self._waiting.pop(number)
        self._published.pop(number, None)
        self._in_flight.discard(number)
        if not waiting.is_queued:
            self._published_bytes -= waiting.size
