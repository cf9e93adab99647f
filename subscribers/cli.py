"""``trainbus worker``."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Annotated

import typer

from bus.config import Settings
from bus.errors import ConfigError
from bus.group.membership import HEARTBEAT_SECONDS
from bus.ratelimit import RateLimits
from bus.sinks import sink_names
from bus.topics import SLOTS
from subscribers.worker.options import (
    DEFAULT_GRACE_SECONDS,
    DEFAULT_SHARDS,
    LOG_GROUP,
    WorkerOptions,
)
from subscribers.worker.rates import read_limits

__all__ = ["worker"]


def worker(
    sink: Annotated[str, typer.Argument(help="log, or the name of an installed sink: mlflow, …")],
    shards: Annotated[
        int | None,
        typer.Option(
            help=f"Shards of the group; by default what it has, {DEFAULT_SHARDS} for a new one."
        ),
    ] = None,
    backfill: Annotated[
        bool, typer.Option("--backfill", help="Also deliver runs from before the group existed.")
    ] = False,
    no_log: Annotated[
        bool,
        typer.Option(
            "--no-log", help="Work without the event log: no catch-up, messages are held."
        ),
    ] = False,
    heartbeat: Annotated[
        float, typer.Option(help="Seconds between heartbeats, the same for all members.")
    ] = HEARTBEAT_SECONDS,
    grace: Annotated[
        float,
        typer.Option(help="log only: seconds until a silent node counts as lost."),
    ] = DEFAULT_GRACE_SECONDS,
    rate: Annotated[
        str | None, typer.Option(help="Requests of the whole group to the sink: 20/s, 1000/day.")
    ] = None,
    burst: Annotated[
        float | None, typer.Option(help="Requests at once, after a quiet time.")
    ] = None,
    run_rate: Annotated[
        str | None, typer.Option(help="Writes of each run: 60/min, '4/hour burst 2'.")
    ] = None,
    kind_rate: Annotated[
        list[str] | None,
        typer.Option(help="Writes of each run with a kind: checkpoint=4/hour. Repeatable."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
) -> None:
    """Run one member of a group: start as many as you like, anywhere."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    known = [LOG_GROUP, *sink_names()]
    if sink not in known:
        raise ConfigError(f"no sink {sink!r}; there are: {', '.join(known)}")
    if shards is not None and not 1 <= shards <= SLOTS:
        raise ConfigError(f"--shards {shards}: a group has 1 to {SLOTS} shards")
    if not heartbeat > 0:
        raise ConfigError(f"--heartbeat {heartbeat}: must be above 0")
    if not grace > 0:
        raise ConfigError(f"--grace {grace}: must be above 0")
    limits = RateLimits()
    if sink != LOG_GROUP:
        limits = read_limits(sink, os.environ, rate, burst, run_rate, kind_rate or ())
    elif rate or burst or run_rate or kind_rate:
        raise ConfigError("the log worker has no rate limit: leave out --rate and its like")
    options = WorkerOptions(
        sink,
        DEFAULT_SHARDS if shards is None else shards,
        backfill,
        not no_log,
        heartbeat,
        grace,
        limits,
        has_chosen_shards=shards is not None,
    )
    asyncio.run(_run(options, Settings.from_environment()))
    # A call into a tracker that hangs keeps its thread, and a thread keeps the process. All that is
    # ours is finished and acknowledged by now; the rest comes again.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


async def _run(options: WorkerOptions, settings: Settings) -> None:
    # Here, not above: --help of all commands is not to wait for the database library.
    from subscribers.worker.main import run_worker

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run_worker(options, settings, os.environ, stop)
