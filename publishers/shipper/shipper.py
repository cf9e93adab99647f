"""The shipper: tails the journals of a spool, publishes events, trims what is stored.

One asyncio process per node and spool. What to do is decided in ``cutter``, ``outbox`` and
``loghealth``; here are the clock, the disk and the order of things. All state is touched on the
event loop only; a thread syncs files, which is what takes long.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bus.artifacts import ArtifactStore
from bus.config import Settings
from bus.errors import JournalError
from bus.idranges import IdRanges
from bus.nodes import NodeHeartbeat
from bus.topics import shard_of, slot_of
from bus.waiting import end_tasks, wait_for_event
from publishers.shipper.active import Active
from publishers.shipper.discovery import Discovery, SayOnce
from publishers.shipper.loghealth import ShardNews
from publishers.shipper.outbox import Outbox
from publishers.shipper.sending import Sending
from publishers.shipper.source import Commit
from publishers.shipper.stopnotes import StopNotes
from publishers.shipper.uplink import Uplink
from publishers.shipper.uploads import Uploads

__all__ = ["Shipper"]

logger = logging.getLogger(__name__)

READ_BYTES = 1024 * 1024
"""Read from one journal in one round: some 10 ms of work."""
UNSENT_BYTES = 4 * 1024 * 1024
"""Cut and waiting for room: no more is read from a journal that has so much."""

COALESCE_SECONDS = 0.05
COALESCE_CAP_SECONDS = 0.2
SOURCES_AT_FULL_PACE = 4
"""With more busy sources rows wait longer: what costs is the number of events."""

TICK_SECONDS = 0.01
QUIET_TICK_SECONDS = 0.05
QUIET_AFTER_SECONDS = 5.0
DISCOVER_SECONDS = 0.25

LIVENESS_SECONDS = 0.5


class Shipper:
    """Ships one spool.

    Attributes:
        stored: Events confirmed as stored.
        has_begun: The spool has been looked at.
        idle_since: When there last was a source to ship (monotonic seconds).
    """

    def __init__(
        self,
        settings: Settings,
        spool: Path,
        node: str,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.stored = 0
        self.has_begun = False
        self.idle_since = clock()
        self._topics = settings.topics
        self._spool = spool
        self._node = node
        self._clock = clock
        self._wall_clock = wall_clock
        self._sources: dict[str, Active] = {}
        self._say_once = SayOnce()
        self._discovery = Discovery(spool, self._say_once)
        self._wake = asyncio.Event()
        self._notes = StopNotes(self._say_once, clock)
        self._uploads = Uploads(lambda: ArtifactStore(settings.store), self._wake.set)
        self._spool_name = hashlib.sha256(str(spool.resolve()).encode()).hexdigest()[:12]
        self._uplink = Uplink(
            settings.broker,
            settings.topics,
            node,
            self._spool_name,
            self._on_stored,
            self._on_shard_news,
            self._notes.hear,
            self._on_link,
            self._heartbeat,
            clock,
        )
        self._sending = Sending(
            self._topics, lambda: self._uplink.link, clock, self._wake.set, self._say_once
        )

    @property
    def published(self) -> int:
        """Events handed to the broker, resends included."""
        return self._sending.published

    @property
    def waiting(self) -> int:
        """Events that are cut and not yet confirmed as stored."""
        return sum(active.outbox.waiting for active in self._sources.values())

    @property
    def unread_bytes(self) -> int:
        """Journal bytes that were not read yet."""
        total = 0
        for active in self._sources.values():
            # Told to people, and to be told whatever is wrong with the spool.
            with contextlib.suppress(OSError, JournalError):
                total += active.journal.unread_bytes
        return total

    @property
    def has_only_live_sources(self) -> bool:
        """All that is left is still being written: there is no end to wait for."""
        return all(active.journal.is_live for active in self._sources.values())

    async def run(self, stop: asyncio.Event, idle_exit_seconds: float = float("inf")) -> None:
        """Ship until ``stop`` is set, or there has been nothing to ship for so long."""
        uplink = asyncio.create_task(self._uplink.run())
        discover_at = 0.0
        try:
            while not stop.is_set():
                now = self._clock()
                if now - self.idle_since > idle_exit_seconds:
                    break
                if now >= discover_at:
                    await self._discover()
                    self.has_begun = True
                    discover_at = now + DISCOVER_SECONDS
                is_more = await self._round(now)
                if uplink.done():
                    uplink.result()  # it only ends by an error of ours: the next shipper goes on
                await self._pause(stop, is_more)
        finally:
            await end_tasks([uplink])
            await self._uploads.close()
            for active in self._sources.values():
                active.journal.close()

    async def _pause(self, stop: asyncio.Event, is_more: bool) -> None:
        if is_more or stop.is_set():
            await asyncio.sleep(0)
            return
        last_busy = max((a.busy_at for a in self._sources.values()), default=float("-inf"))
        is_quiet = self._clock() - last_busy > QUIET_AFTER_SECONDS
        await wait_for_event(self._wake, QUIET_TICK_SECONDS if is_quiet else TICK_SECONDS)
        self._wake.clear()

    async def _round(self, now: float) -> bool:
        """Read, cut, record, send, trim; True when there is more to do at once."""
        is_more = self._read(now)
        await self._commit()
        self._sending.send(self._sources.values(), self._uplink.health.is_alive(now))
        for active in self._sources.values():
            active.outbox.tick(now, self._uplink.health.is_alive(now))
        await self._retire()
        if self._sources:
            self.idle_since = now
        if self.waiting and self._uplink.health.should_warn(now):
            logger.warning(
                "no log worker has answered for a minute: %d events are kept in %s and delivered "
                "when one runs (trainbus worker log)",
                *(self.waiting, self._spool),
            )
        return is_more

    def _read(self, now: float) -> bool:
        """Read and cut all sources; True when some have more than one round takes."""
        busy = sum(now - active.busy_at < 1.0 for active in self._sources.values())
        age = COALESCE_SECONDS * max(1.0, busy / SOURCES_AT_FULL_PACE)
        is_more = False
        for active in self._sources.values():
            try:
                count = self._read_one(active, now, min(age, COALESCE_CAP_SECONDS))
            except (OSError, JournalError) as error:
                self._say_once(active.about(f"cannot read the spool, will retry: {error}"))
                continue
            is_more = is_more or count >= READ_BYTES
            for blob in active.journal.new_blobs():
                self._uploads.start(active.journal, blob)
        return is_more

    def _read_one(self, active: Active, now: float, age_seconds: float) -> int:
        journal = active.journal
        if now - active.checked_at >= LIVENESS_SECONDS:
            active.checked_at = now
            if journal.end_if_abandoned(self._wall_clock()):
                logger.warning("run %s: its process has gone without ending it", journal.run)
        if journal.planned or sum(active.unsent.values()) >= UNSENT_BYTES:
            return 0
        damaged = journal.damaged
        count = journal.poll(now, age_seconds, READ_BYTES)
        if count:
            active.busy_at = now
        if journal.damaged > damaged:
            logger.error(
                "run %s: %d damaged lines in its journal; the rest is delivered",
                *(journal.run, journal.damaged - damaged),
            )
        return count

    async def _commit(self) -> None:
        """Record new cuts on disk; only then may their events be sent."""
        commits: list[tuple[Active, Commit]] = []
        for active in self._sources.values():
            try:
                commit = active.journal.begin_commit()
            except OSError as error:
                self._say_once(active.about(f"cannot read the spool, will retry: {error}"))
                continue
            if commit is not None:
                commits.append((active, commit))
        if not commits:
            return
        results = await asyncio.gather(
            *(asyncio.to_thread(commit.sync) for _, commit in commits), return_exceptions=True
        )
        for (active, commit), result in zip(commits, results, strict=True):
            if isinstance(result, OSError):
                self._say_once(active.about(f"cannot write to the spool, will retry: {result}"))
            elif isinstance(result, BaseException):
                raise result
            else:
                for number, size in active.journal.end_commit(commit):
                    active.unsent[number] = size
                    active.outbox.add(number, size)

    def _on_link(self, is_up: bool) -> None:
        self._sending.link_changed()
        if not is_up:
            for active in self._sources.values():
                active.outbox.link_lost()
        self._wake.set()

    def _on_stored(self, project: str, run: str, acks: Mapping[str, IdRanges]) -> None:
        for active in self._sources.values():
            header = active.journal.header
            stored = acks.get(header.source)
            # Who may confirm a run is granted by topic.
            if stored is None or (header.project, header.run) != (project, run):
                continue
            before = active.outbox.waiting
            news = active.outbox.confirmed(stored, self._clock())
            self.stored += before - active.outbox.waiting
            self._wake.set()
            try:
                active.journal.stored(news)
            except (OSError, JournalError) as error:
                self._say_once(active.about(f"cannot trim the spool: {error}"))

    def _on_shard_news(self, news: ShardNews, now: float) -> None:
        for active in self._sources.values():
            if shard_of(slot_of(active.journal.run), news.shards) != news.shard:
                continue
            if news.is_new_session:
                active.outbox.session_began(now)
            elif news.is_idle:
                active.outbox.shard_idle(now)
            self._wake.set()

    async def _retire(self) -> None:
        """Remove the folders of sources that are stored to the end."""
        for name, active in list(self._sources.items()):
            if active.journal.is_finished and not active.outbox.waiting:
                del self._sources[name]
                try:
                    await asyncio.to_thread(active.journal.remove)
                except OSError as error:
                    self._discovery.refuse(name)
                    self._say_once(active.about(f"is delivered and cannot be removed: {error}"))

    async def _discover(self) -> None:
        """Take up new sources of the spool; drop those whose folder somebody has removed."""
        found, gone = await asyncio.to_thread(self._discovery.find, frozenset(self._sources))
        for name, journal in found.items():
            active = Active(journal, Outbox(journal.recovered_stored()))
            active.outbox.recover(journal.recovered(), self._clock())
            self._sources[name] = active
        for name in gone:
            active = self._sources.pop(name)
            active.journal.close()
            logger.error(
                "run %s: its folder %s was removed with %d events not confirmed as stored",
                *(active.journal.run, active.journal.folder, active.outbox.waiting),
            )
        await self._notes.carry_out(active.journal for active in self._sources.values())

    def _heartbeat(self) -> NodeHeartbeat:
        lowest = {
            active.journal.header.source: low
            for active in self._sources.values()
            if (low := active.outbox.lowest) is not None
        }
        return NodeHeartbeat(
            self._node,
            self._spool_name,
            sources=lowest,
            live=[active.journal.header.source for active in self._sources.values()],
            waiting=self.waiting,
            backlog_bytes=self.unread_bytes,
            stopping=self._notes.noted,
        )
