"""One worker process of a sink group, put together."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Coroutine, Mapping
from dataclasses import replace

from bus.config import Settings
from bus.errors import ConfigError, LogError
from bus.eventlog.aio import AsyncEventLog
from bus.group.host import Consumer, GroupHost
from bus.retry import Backoff, RetryPolicy
from bus.sinks import RateLimited, TellsToStop, load_sink
from bus.topics import Topics
from bus.waiting import end_tasks, wait_for_event
from subscribers.log.consumer import LogConsumer
from subscribers.worker.consumer import SinkConsumer
from subscribers.worker.joining import join_group
from subscribers.worker.letters import DeadLetters
from subscribers.worker.options import LOG_GROUP, WorkerOptions
from subscribers.worker.stops import StopNotices

__all__ = ["run_worker"]

logger = logging.getLogger(__name__)

_OPEN_RETRY = RetryPolicy(initial_seconds=0.5, cap_seconds=5.0)


async def run_worker(
    options: WorkerOptions, settings: Settings, environ: Mapping[str, str], stop: asyncio.Event
) -> None:
    """Work until ``stop`` is set, then finish the writes in hand.

    Raises:
        ConfigError: The sink, the log or the group does not allow it.
        LogError: The event log is not ours, or of another version.
    """
    log = await _open_log(settings, stop) if options.has_log else None
    if stop.is_set():
        return
    try:
        if options.sink == LOG_GROUP:
            await _run_log_worker(options, settings, log, stop)
        else:
            await _run_sink_worker(options, settings, environ, log, stop)
    finally:
        if log is not None:
            await log.close()


async def _run_log_worker(
    options: WorkerOptions, settings: Settings, log: AsyncEventLog | None, stop: asyncio.Event
) -> None:
    if log is None:
        raise ConfigError("the log worker needs the event log: set TRAINBUS_LOG")
    topics = settings.topics
    options, _ = await join_group(options, log)
    consumer = LogConsumer(log, topics, options.shards, grace_seconds=options.grace_seconds)
    notices = (topics.nodes_filter, topics.dead_filter)
    host = _host(options, settings, topics, consumer, notices)
    consumer.host = consumer.lost_nodes.host = host
    await _run(host, stop, consumer.store(), consumer.lost_nodes.tend())


async def _run_sink_worker(
    options: WorkerOptions,
    settings: Settings,
    environ: Mapping[str, str],
    log: AsyncEventLog | None,
    stop: asyncio.Event,
) -> None:
    topics = settings.topics
    # The group begins now, not when the tracker's library has been imported seconds later.
    since = 0.0
    if log is not None:
        options, group = await join_group(options, log)
        if options.is_backfill:
            group = await log.move_group_start(options.sink, 0.0) or group
        since = group.started_at
    sink = load_sink(options.sink, settings, environ)
    if log is not None:
        # Loading a tracker's library takes seconds, and the group may have been resized meanwhile.
        await join_group(replace(options, has_chosen_shards=True), log)
    limits = options.limits
    if isinstance(sink, RateLimited):
        limits = limits.or_else(sink.rate_limits)
    letters = DeadLetters(options.sink, topics, log)
    consumer = SinkConsumer(sink, topics, options.shards, log, letters, since, limits=limits)
    host = _host(options, settings, topics, consumer, (topics.stored_filter,))
    letters.host = host
    host.on_heartbeat = consumer.on_heartbeat
    consumer.tell_pauses_to(host.tell_now)
    if isinstance(sink, TellsToStop):
        consumer.stops = StopNotices(options.sink, topics, host.publish, log)
        sink.tell_stops_to(consumer.stops.tell)
    try:
        await _run(host, stop, *consumer.work())
    finally:
        await sink.close()


def _host(
    options: WorkerOptions,
    settings: Settings,
    topics: Topics,
    consumer: Consumer,
    notices: tuple[str, ...],
) -> GroupHost:
    member = f"{socket.gethostname() or 'host'}-{secrets.token_hex(4)}"
    return GroupHost(
        settings.broker,
        topics,
        options.sink,
        member,
        options.shards,
        consumer,
        notices,
        options.heartbeat_seconds,
    )


async def _run(
    host: GroupHost, stop: asyncio.Event, *work: Coroutine[object, object, None]
) -> None:
    """Run the member and its consumer's work; the first to fail ends all."""
    tasks = [asyncio.create_task(one) for one in (host.run(stop), *work)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        await end_tasks(tasks)


async def _open_log(settings: Settings, stop: asyncio.Event) -> AsyncEventLog | None:
    """Open the event log, and wait for it when its server is not there yet."""
    backoff = Backoff(_OPEN_RETRY)
    if settings.log is None:
        return None
    while not stop.is_set():
        try:
            return await AsyncEventLog.open(settings.log)
        except LogError as error:
            if not error.is_retryable:
                raise
            logger.warning("%s; will retry", error)
        await wait_for_event(stop, backoff.next_seconds())
    return None
