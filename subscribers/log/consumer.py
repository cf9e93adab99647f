"""The log group's consumer: many messages, one transaction, then the stored-acks, then PUBACK.

A message is acknowledged, and its shipper told that it may trim its journal, only after the
transaction that holds it is synced to disk. Killed anywhere before, the broker delivers it again
and the log drops what it has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from bus.deadletters import decode_letter
from bus.errors import EventError, LogError
from bus.eventlog import AppendResult, DeadLetter, LogRecord, SourceState
from bus.eventlog.aio import AsyncEventLog
from bus.events import decode_envelope
from bus.group.host import GroupHost
from bus.idranges import IdRanges
from bus.mqtt import Delivery
from bus.nodes import decode_node
from bus.retry import Backoff, RetryPolicy
from bus.source import Source
from bus.stored import encode_stored
from bus.topics import Topics, shard_of, slot_of
from subscribers.log.lostnodes import LostNodes
from subscribers.worker.options import DEFAULT_GRACE_SECONDS

__all__ = ["LogConsumer"]

logger = logging.getLogger(__name__)

BATCH_EVENTS = 500
BATCH_BYTES = 8 * 1024 * 1024
IDLE_SECONDS = 0.3
"""A shard that has received nothing for so long is reported idle."""

RELEASE_SECONDS = 10.0
LOOK_AGAIN_SECONDS = 30.0
"""How often a shipper that says the same of its journal is answered."""
REMEMBERED_SOURCES = 10_000

_LOG_RETRY = RetryPolicy(initial_seconds=0.2, cap_seconds=10.0)


@dataclass(slots=True)
class _Waiting:
    shard: int
    delivery: Delivery
    record: LogRecord


class _Losses:
    """What shippers said their journals still hold, and what came of it; bounded."""

    def __init__(self) -> None:
        self._looked: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lost: dict[str, int] = {}
        self._under_way: set[str] = set()

    def should_look(self, source: str, lowest: int, now: float) -> bool:
        """Whether the log is to be asked for what it lacks below ``lowest``; then it is."""
        before, at = self._looked.get(source, (1, now))
        is_news = lowest != before or now - at >= LOOK_AGAIN_SECONDS
        if lowest <= 1 or not is_news or source in self._under_way:
            return False
        self._under_way.add(source)
        return True

    def looked(self, source: str, lowest: int, now: float, state: SourceState | None) -> int:
        """The log has answered, or failed to (None); gives how many events more are lost."""
        self._under_way.discard(source)
        if state is None:
            return 0
        self._looked[source] = (lowest, now)
        self._looked.move_to_end(source)
        if len(self._looked) > REMEMBERED_SOURCES:
            oldest, _ = self._looked.popitem(last=False)
            self._lost.pop(oldest, None)
        before = self._lost.get(source, 0)
        if len(state.lost) <= before:
            return 0
        self._lost[source] = len(state.lost)
        return len(state.lost) - before


class LogConsumer:
    """Stores the events of its shards (:class:`bus.group.host.Consumer`)."""

    def __init__(
        self,
        log: AsyncEventLog,
        topics: Topics,
        shards: int,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        grace_seconds: float = DEFAULT_GRACE_SECONDS,
    ) -> None:
        self.host: GroupHost | None = None
        self._log = log
        self._topics = topics
        self._shards = shards
        self._clock = clock
        self._wall_clock = wall_clock
        self._queue: deque[_Waiting] = deque()
        self._in_hand: list[_Waiting] = []
        self._is_fed = asyncio.Event()
        self._is_stored = asyncio.Condition()
        self._received_at: dict[int, float] = {}
        self._chores: set[asyncio.Task[object]] = set()
        self._losses = _Losses()
        self.lost_nodes = LostNodes(
            log, topics, grace_seconds, self._is_ours, self._confirm, clock, wall_clock
        )
        self._counts = {"stored": 0, "duplicates": 0, "conflicts": 0, "undecodable": 0, "lost": 0}

    def on_delivery(self, shard: int, delivery: Delivery) -> None:
        """Queue a message for the next transaction."""
        self._received_at[shard] = self._clock()
        try:
            record = _record(self._topics, delivery)
        except EventError as error:
            self._counts["undecodable"] += 1
            logger.warning("log: refused a message on %s: %s", delivery.topic, error)
            self._do(self._keep_undecodable(delivery, error))
            return
        self._queue.append(_Waiting(shard, delivery, record))
        self._is_fed.set()

    def on_notice(self, delivery: Delivery) -> None:
        """A shipper's heartbeat, or a dead letter of a group."""
        if delivery.topic.startswith(f"{self._topics.prefix}/dead/"):
            letter = decode_letter(self._topics, delivery.topic, delivery.payload)
            self._do(self._keep(letter))
            return
        now = self._clock()
        beat = decode_node(delivery.payload)
        if not beat.has_left:
            self.lost_nodes.heard(beat.live)
        for source, lowest in beat.sources.items():
            run = Source.parse(source).run
            if not self._is_ours(run):
                continue
            if self._losses.should_look(source, lowest, now):
                self._do(self._record_lost(run, source, lowest))

    def on_shard(self, shard: int) -> None:
        """The session stands: from now on silence means that there is nothing."""
        self._received_at[shard] = self._clock()
        self.lost_nodes.shards_changed()

    async def release(self, shards: frozenset[int]) -> None:
        """Store what has been received before the sessions are let go of."""
        try:
            async with asyncio.timeout(RELEASE_SECONDS), self._is_stored:
                await self._is_stored.wait_for(lambda: not shards & self._busy())
        except TimeoutError:
            logger.warning("log: gave up shards with events unstored: they are sent again")
        for shard in shards:
            self._received_at.pop(shard, None)
        self.lost_nodes.shards_changed()

    def idle(self, now: float) -> list[int]:
        """Shards with nothing in hand, and nothing received for a moment."""
        busy = self._busy()
        return sorted(
            shard
            for shard, at in self._received_at.items()
            if shard not in busy and now - at >= IDLE_SECONDS
        )

    def report(self) -> dict[str, Any]:
        """Counters for the heartbeat."""
        return {
            **self._counts,
            "held": len(self._queue) + len(self._in_hand),
            "open_sources": self.lost_nodes.watched,
        }

    async def store(self) -> None:
        """Move what is queued into the log, one transaction after the other; never returns."""
        while True:
            await self._is_fed.wait()
            self._is_fed.clear()
            while self._queue:
                self._in_hand = self._take()
                await self._store(self._in_hand)
                self._in_hand = []
                async with self._is_stored:
                    self._is_stored.notify_all()

    def _is_ours(self, run: str) -> bool:
        """This member owns the shard of a run."""
        return shard_of(slot_of(run), self._shards) in self._received_at

    def _busy(self) -> set[int]:
        """Shards with something in hand."""
        return {waiting.shard for waiting in (*self._queue, *self._in_hand)}

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < BATCH_EVENTS and size < BATCH_BYTES:
            batch.append(self._queue.popleft())
            size += len(batch[-1].delivery.payload)
        return batch

    async def _store(self, batch: Sequence[_Waiting]) -> None:
        backoff = Backoff(_LOG_RETRY)
        while True:
            try:
                records = [waiting.record for waiting in batch]
                result = await self._log.append(records, self._wall_clock())
                break
            except LogError as error:
                if not error.is_retryable:
                    await self._store_apart(batch, error)
                    return
                logger.warning("log: cannot store, will retry: %s", error)
                await asyncio.sleep(backoff.next_seconds())
        self._note(result, len(batch))
        self.lost_nodes.stored(records)
        self._confirm(result)
        for waiting in batch:
            waiting.delivery.ack()

    async def _store_apart(self, batch: Sequence[_Waiting], error: LogError) -> None:
        """The database refuses the batch for good: find the event it means."""
        if len(batch) > 1:
            for waiting in batch:
                await self._store([waiting])
            return
        await self._keep_undecodable(batch[0].delivery, error)

    def _note(self, result: AppendResult, events: int) -> None:
        self._counts["stored"] += events - result.duplicates
        self._counts["duplicates"] += result.duplicates
        self._counts["conflicts"] += len(result.conflicts)
        for source, number in result.conflicts:
            logger.error(
                "log: event %d of %s arrived again with other bytes; the first stays",
                *(number, source),
            )

    def _confirm(self, result: AppendResult) -> None:
        """Tell the shippers and sinks of each run what is stored. A lost ack is sent anew later."""
        link = self.host.link if self.host else None
        if link is None or link.is_lost:
            return
        runs: dict[tuple[str, str], dict[str, IdRanges]] = {}
        for source, state in result.states.items():
            runs.setdefault((state.project, state.run), {})[source] = state.stored
        for (project, run), sources in runs.items():
            link.send_once(self._topics.stored(project, run), encode_stored(sources))

    async def _record_lost(self, run: str, source: str, lowest: int) -> None:
        """The journal has nothing below ``lowest`` any more: what the log lacks of it is lost."""
        reason = "the journal no longer holds it"
        state = None
        try:
            state = await self._log.record_lost(source, 1, lowest - 1, reason, self._wall_clock())
        finally:
            more = self._losses.looked(source, lowest, self._clock(), state)
        if state is not None and state.lost:
            # Also when it is no news: the shipper may have missed what it was told.
            self._confirm(AppendResult({source: state}))
        if state is not None and more:
            self._counts["lost"] += more
            logger.error("log: run %s: events %s of %s are lost", run, state.lost, source)

    async def _keep_undecodable(self, delivery: Delivery, error: Exception) -> None:
        """Keep what cannot be stored as an event; acknowledged only once it is kept."""
        await self._keep(_undecodable(delivery, error, self._wall_clock()))
        delivery.ack()

    async def _keep(self, letter: DeadLetter) -> None:
        backoff = Backoff(_LOG_RETRY)
        while True:
            try:
                await self._log.add_dead_letter(letter)
                return
            except LogError as failure:
                if not failure.is_retryable:
                    raise
                await asyncio.sleep(backoff.next_seconds())

    def _do(self, chore: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[object]) -> None:
        self._chores.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("log: %s", error)


def _undecodable(delivery: Delivery, error: Exception, now: float) -> DeadLetter:
    return DeadLetter(
        group="log",
        source="",
        id=0,
        run="",
        project="",
        reason="undecodable",
        error=f"{delivery.topic}: {error}",
        attempts=1,
        time=now,
        raw=delivery.payload,
    )


def _record(topics: Topics, delivery: Delivery) -> LogRecord:
    """Read who and what of a message; raises EventError when it is not one of ours."""
    topic = topics.parse_event(delivery.topic)
    envelope = decode_envelope(delivery.payload)
    if (topic.project, topic.run, topic.kind) != (
        envelope.project,
        envelope.subject,
        envelope.kind,
    ):
        raise EventError("topic", f"{delivery.topic} is not the topic of the event on it")
    return LogRecord(
        source=envelope.source,
        id=envelope.number,
        run=envelope.subject,
        project=envelope.project,
        run_name=envelope.runname,
        kind=envelope.kind,
        time=envelope.time_seconds,
        raw=delivery.payload,
    )
