"""``trainbus ship``."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import Annotated

import typer

from bus.config import Settings
from bus.errors import ConfigError
from publishers.journal.format import SOURCES_NAME
from publishers.shipper.__main__ import SpoolLock, node_name
from publishers.shipper.shipper import Shipper

__all__ = ["ship"]

REFRESH_SECONDS = 0.1


def ship(
    spool: Annotated[
        Path | None, typer.Argument(help="Folder of the journals; default: TRAINBUS_SPOOL.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when all that is there has been delivered.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
) -> None:
    """Deliver what is left in a spool, or serve it until Ctrl-C."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    settings = Settings.from_environment()
    folder = (spool or settings.spool).absolute()
    if not (folder / SOURCES_NAME).is_dir():
        raise ConfigError(f"{folder} is no spool: it has no folder {SOURCES_NAME!r}")
    lock = SpoolLock(folder)
    if not lock.acquire():
        raise ConfigError(f"another shipper serves {folder}: it delivers what is there")
    try:
        asyncio.run(_serve(settings, folder, once))
    finally:
        lock.release()


async def _serve(settings: Settings, spool: Path, once: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    shipper = Shipper(settings, spool, node_name())
    if not once:
        await shipper.run(stop)
        return
    shipping = asyncio.create_task(shipper.run(stop))
    watching = asyncio.create_task(_watch(shipper, spool, stop))
    await shipping
    await watching


async def _watch(shipper: Shipper, spool: Path, stop: asyncio.Event) -> None:
    """Show what is left, and stop the shipper when nothing is."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} bytes, {task.fields[note]}"),
        TimeElapsedColumn(),
    )
    total = max(await asyncio.to_thread(_journal_bytes, spool), 1)
    with Progress(*columns) as progress:
        task = progress.add_task("delivering", total=total, note="")
        while not stop.is_set():
            left = await asyncio.to_thread(_journal_bytes, spool)
            total = max(total, left)
            note = f"{shipper.stored:,} events stored, {shipper.waiting:,} waiting"
            progress.update(task, completed=total - left, total=total, note=note)
            if left == 0 or (shipper.has_begun and shipper.has_only_live_sources):
                stop.set()
                break
            try:
                await asyncio.wait_for(stop.wait(), REFRESH_SECONDS)
            except TimeoutError:
                continue


def _journal_bytes(spool: Path) -> int:
    """Size of all journals that are still there."""
    total = 0
    for path in (spool / SOURCES_NAME).glob("[!.]*/*.journal"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total
