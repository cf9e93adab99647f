"""A worker and the record of its group in the event log: they agree on the number of shards."""

from __future__ import annotations

import time
from dataclasses import replace

from bus.errors import ConfigError
from bus.eventlog import Group
from bus.eventlog.aio import AsyncEventLog
from subscribers.worker.options import WorkerOptions

__all__ = ["join_group"]


async def join_group(options: WorkerOptions, log: AsyncEventLog) -> tuple[WorkerOptions, Group]:
    """Register the group of a worker, or take over what is registered.

    Members that live compare their numbers themselves; this also holds when none does. Sessions
    made for another number are still there then, and would hand out the same runs twice.

    Returns:
        The options with the group's number of shards, and the group.

    Raises:
        ConfigError: The worker was started with another number than the group has.
        LogError: The log cannot be asked.
    """
    group = await log.register_group(options.sink, options.shards, time.time())
    if options.has_chosen_shards and group.shards != options.shards:
        raise ConfigError(
            f"group {options.sink!r} has {group.shards} shards in the event log, and this worker "
            f"was started with {options.shards}: use --shards {group.shards}, or stop the group "
            f"and run trainbus group resize {options.sink} --shards {options.shards}"
        )
    return replace(options, shards=group.shards), group
