"""What a sink worker does with its shards: sorts deliveries by run, and keeps the runs going."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from bus.errors import EventError, LogError
from bus.eventlog import DeadLetter, SourceState
from bus.eventlog.aio import AsyncEventLog
from bus.events import decode_envelope
from bus.feed import Item
from bus.group.heartbeat import Heartbeat
from bus.mqtt import Delivery
from bus.ratelimit import RateLimits, RunKey
from bus.sinks import KeepsAlive, RunRef, Sink
from bus.source import Source
from bus.stored import decode_stored
from bus.topics import EventTopic, Topics, shard_of, slot_of
from subscribers.worker.gate import SinkGate
from subscribers.worker.keepalive import KeepAlive, RunsUnderWay
from subscribers.worker.lag import lag_seconds
from subscribers.worker.looking import LogLook
from subscribers.worker.pump import RunPump
from subscribers.worker.retries import Retries
from subscribers.worker.sinkstate import SinkState
from subscribers.worker.stops import StopNotices
from subscribers.worker.underway import RunsInLog, RunsSeen
from subscribers.worker.writer import DeadLetterKeeper, WriterStats

__all__ = ["SinkConsumer"]

logger = logging.getLogger(__name__)

LET_GO_SECONDS = 5.0
"""A run that waits longer than this leaves its messages to the event log."""

CROWDED_DELIVERIES = 8
CROWDED_LET_GO_SECONDS = 0.25
"""With so many messages of a shard waiting, a run that is stuck leaves its own at once: brokers
deliver about 20 (Mosquitto) or 10 (RabbitMQ) before they want an acknowledgement, and the other
runs of the shard need the room."""

TICK_SECONDS = 0.1
LOOK_SECONDS = 15.0
START_MARGIN_SECONDS = 60.0
"""How old a run may be that ended while the first worker of its group was still starting."""

FORGET_SECONDS = 30.0
REMEMBERED_RUNS = 1000
CROWDED_FORGET_SECONDS = 2.0
"""With more runs than that in memory the quiet ones are forgotten sooner: each takes some 16 KiB,
and opening one again is one question to the tracker."""
REMEMBERED_GAPS = 20_000
STOP_SECONDS = 10.0


class SinkConsumer:
    """Consumes the shards of one sink group (:class:`bus.group.host.Consumer`).

    Attributes:
        stops: Where what the tracker wants stopped is published; None when it wants no such thing.
    """

    def __init__(
        self,
        sink: Sink,
        topics: Topics,
        shards: int,
        log: AsyncEventLog | None,
        dead_letters: DeadLetterKeeper,
        since: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        limits: RateLimits | None = None,
    ) -> None:
        self.stats = WriterStats()
        self.stops: StopNotices | None = None
        self._sink = sink
        self._topics = topics
        self._shards = shards
        self._log = log
        self._dead_letters = dead_letters
        self._clock = clock
        self._gate = SinkGate(limits, shards, clock)
        self._pumps: dict[tuple[str, str], RunPump] = {}
        self._owned: set[int] = set()
        since = max(since - START_MARGIN_SECONDS, 0.0)
        self._log_look = LogLook(sink.name, log, shards, since) if log is not None else None
        self._look_now = asyncio.Event()
        self._undecodable = 0
        self._warned_gaps: set[tuple[str, int, int]] = set()
        self._retries = Retries(log, dead_letters, clock) if log is not None else None
        self._state = SinkState(sink)
        self._runs_seen = RunsSeen(sink.name)
        self._keeper: KeepAlive | None = None
        if isinstance(sink, KeepsAlive):
            runs: RunsUnderWay = self._runs_seen
            if log is not None:
                runs = RunsInLog(sink.name, log, since, self._is_ours)
            self._keeper = KeepAlive(sink.name, sink, runs, self._gate, clock)

    def work(self) -> list[Coroutine[object, object, None]]:
        """What is to run beside the member of the group; none of it returns."""
        return [
            self.tend(),
            *([self._keeper.run()] if self._keeper else []),
            *([self.stops.run()] if self.stops else []),
        ]

    def tell_pauses_to(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when the tracker asks for a pause: the next heartbeat says so."""
        self._gate.on_pause = listener

    def on_heartbeat(self, beat: Heartbeat) -> None:
        """Another member speaks: a pause that it was asked for holds for all."""
        if beat.has_left:
            self._gate.pauses.left(beat.member)
        else:
            self._gate.heard(beat.member, beat.report)

    def on_delivery(self, shard: int, delivery: Delivery) -> None:
        """Take a message in, or acknowledge it at once when there is nothing to do for it."""
        try:
            topic = self._topics.parse_event(delivery.topic)
            envelope = decode_envelope(delivery.payload)
            _check_place(topic, envelope.project, envelope.subject, envelope.kind)
        except EventError as error:
            # The log group keeps it as a dead letter; without an id nobody else can do anything.
            self._undecodable += 1
            logger.warning(
                "%s: refused a message on %s: %s", self._sink.name, delivery.topic, error
            )
            delivery.ack()
            return
        if self._keeper is not None and self._log is None:
            self._runs_seen.see(envelope, delivery.payload)
        pump = self._pump(RunRef(envelope.project, envelope.subject, envelope.runname))
        item = Item(
            envelope.source,
            envelope.number,
            envelope.kind,
            delivery.payload,
            delivery,
            self._clock(),
            is_retry=topic.group is not None and self._retries is None,
        )
        if topic.group is not None and self._retries is not None:
            self._retries.nudge()
        settled = pump.feed.offer(item)
        if settled is not None:
            settled.ack()
        pump.wake(envelope.kind)

    def on_notice(self, delivery: Delivery) -> None:
        """A stored-ack: runs that wait for the log can go on."""
        try:
            project, run = self._topics.parse_tail(delivery.topic)
            sources = decode_stored(delivery.payload)
            # Who may confirm a run is granted by topic.
            sources = {name: ids for name, ids in sources.items() if Source.parse(name).run == run}
        except (EventError, ValueError) as error:
            logger.warning("%s: ignored %s: %s", self._sink.name, delivery.topic, error)
            return
        pump = self._pumps.get((project, run))
        if pump is None:
            return
        for source, ranges in sources.items():
            pump.feed.stored(source, ranges)
        pump.wake()

    def on_shard(self, shard: int) -> None:
        """A shard became ours, or its link is back: look for what was missed."""
        self._owned.add(shard)
        self._gate.gain(shard)
        self._look_now.set()
        if self._log_look is not None:
            self._log_look.begin_anew([shard])
        if self._retries is not None:
            self._retries.nudge()
        if self._keeper is not None:
            self._keeper.learn_soon()

    async def release(self, shards: frozenset[int]) -> None:
        """Finish the writes in hand of these shards and forget their runs."""
        self._owned -= shards
        self._gate.lose(shards)
        if self._log_look is not None:
            self._log_look.lose(shards)

        def is_leaving(key: RunKey) -> bool:
            return self._shard(key[1]) in shards

        self._runs_seen.drop(is_leaving)
        pumps = [self._pumps.pop(key) for key in list(self._pumps) if is_leaving(key)]
        stops = [pump.stop(STOP_SECONDS) for pump in pumps]
        if self._keeper is not None:
            stops.append(self._keeper.release(is_leaving))
        await asyncio.gather(*stops)
        await asyncio.gather(*(self._sink.close_run(pump.run) for pump in pumps))

    def idle(self, now: float) -> list[int]:
        """Shards without a run that has anything to do."""
        busy = {self._shard(key[1]) for key, pump in self._pumps.items() if pump.is_running}
        return sorted(self._owned - busy)

    def report(self) -> dict[str, Any]:
        """Counters for the heartbeat."""
        now = self._clock()
        return {
            **{field: getattr(self.stats, field) for field in self.stats.__slots__},
            "undecodable": self._undecodable,
            "runs": len(self._pumps),
            "lag": sum(pump.feed.lag() for pump in self._pumps.values()),
            "lag_seconds": lag_seconds((p.feed for p in self._pumps.values()), now, time.time()),
            "held": sum(pump.feed.held() for pump in self._pumps.values()),
            "waiting_seconds": max(
                (p.waiting_seconds(now) for p in self._pumps.values()), default=0
            ),
            **self._gate.report(),
            **(self._keeper.report() if self._keeper else {}),
            **({"sink": state} if (state := self._state.read()) else {}),
            **({"stops": stops} if self.stops and (stops := self.stops.report()) else {}),
        }

    async def tend(self) -> None:
        """Let go of what waits too long, look into the log, forget what is done; never returns."""
        next_look = self._clock()
        while True:
            now = self._clock()
            self._let_go(now)
            await self._forget(now)
            if self._look_now.is_set() or now >= next_look:
                self._look_now.clear()
                await self._look()
                next_look = self._clock() + LOOK_SECONDS
            await self._take_up_letters()
            await asyncio.sleep(TICK_SECONDS)

    def _let_go(self, now: float) -> None:
        if self._log is None:
            self._report_gaps()
            return
        running = [(key, pump) for key, pump in self._pumps.items() if pump.is_running]
        held: dict[int, int] = {}
        for key, pump in running:
            shard = self._shard(key[1])
            held[shard] = held.get(shard, 0) + pump.feed.held()
        for key, pump in running:
            is_crowded = held[self._shard(key[1])] >= CROWDED_DELIVERIES
            is_stuck = pump.waiting_seconds(now) >= CROWDED_LET_GO_SECONDS
            # What waits for a token of its kind is stuck, whatever else the run does.
            parked = CROWDED_LET_GO_SECONDS if is_crowded else LET_GO_SECONDS
            for delivery in pump.feed.let_go(now, parked if is_stuck else LET_GO_SECONDS, parked):
                delivery.ack()

    def _report_gaps(self) -> None:
        """Without the log a hole can only be filled by the shipper: say exactly what is missing."""
        for pump in self._pumps.values():
            for gap in pump.feed.gaps() if pump.has_marks else ():
                if gap not in self._warned_gaps and len(self._warned_gaps) < REMEMBERED_GAPS:
                    self._warned_gaps.add(gap)
                    logger.warning("%s: missing events %d to %d", *gap)

    async def _forget(self, now: float) -> None:
        self._gate.tend(now)
        is_crowded = len(self._pumps) > REMEMBERED_RUNS
        patience = CROWDED_FORGET_SECONDS if is_crowded else FORGET_SECONDS
        idle = [
            (key, pump)
            for key, pump in self._pumps.items()
            if not pump.is_running and now - pump.active_at > patience
        ]
        for key, pump in idle:
            if not pump.feed.is_quiet():
                # It failed, by an error of ours: its messages are held, and nobody else has them.
                pump.wake()
            elif not pump.is_running and self._pumps.get(key) is pump:
                del self._pumps[key]
                await self._sink.close_run(pump.run)

    async def _look(self) -> None:
        """Find runs of our shards that the log has more of than the sink."""
        if self._log_look is None or not self._owned:
            return
        shards = frozenset(self._owned)
        try:
            states = await self._log_look.look(shards, self._busy, self._is_ours, self._is_open)
        except LogError as error:
            logger.warning("%s: cannot look into the event log: %s", self._sink.name, error)
            return
        for state in states:
            pump = self._pump(RunRef(state.project, state.run, state.run_name))
            pump.feed.stored(state.source, state.stored, state.lost)
            pump.wake()

    async def _take_up_letters(self) -> None:
        """Try dead letters again that somebody asked for."""
        if self._retries is None or not self._owned:
            return
        for retry in await self._retries.look(self._is_ours, self._is_here):
            if self._is_ours(retry.run.run):
                pump = self._pump(retry.run)
                if retry.state is not None:
                    state = retry.state
                    pump.feed.stored(state.source, state.stored, state.lost)
                pump.feed.offer(retry.item)
                pump.wake()

    def _is_ours(self, run: str) -> bool:
        return self._shard(run) in self._owned

    def _is_here(self, letter: DeadLetter) -> bool:
        pump = self._pumps.get((letter.project, letter.run))
        return pump is not None and pump.feed.has(letter.source, letter.id)

    def _is_open(self, state: SourceState) -> bool:
        return (state.project, state.run) in self._pumps

    def _busy(self) -> frozenset[int]:
        """Shards with something left to do, as far as is known."""
        return frozenset(
            self._shard(key[1])
            for key, pump in self._pumps.items()
            if pump.is_running or not pump.feed.is_quiet()
        )

    def _pump(self, run: RunRef) -> RunPump:
        key = (run.project, run.run)
        pump = self._pumps.get(key)
        if pump is None:
            pump = RunPump(
                *(run, self._sink, self._log, self._dead_letters, self.stats),
                *(self._clock, self._gate),
            )
            self._pumps[key] = pump
        return pump

    def _shard(self, run: str) -> int:
        return shard_of(slot_of(run), self._shards)


def _check_place(topic: EventTopic, project: str, run: str, kind: str) -> None:
    """Refuse an event on a topic that is not its own: brokers grant access by topic."""
    if (topic.project, topic.run, topic.kind) != (project, run, kind):
        raise EventError(
            "topic", f"is of {topic.project}/{topic.run}/{topic.kind}, the event is not"
        )
