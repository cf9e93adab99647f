"""Starts a run: finds out who this process is, makes its journal, and sees to the shipper."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from bus.config import Settings
from bus.errors import ConfigError, EventError
from bus.kinds import World
from bus.source import Source, new_incarnation
from bus.topics import encode_level
from publishers.counting import process_runs
from publishers.drops import Drops
from publishers.ending import Ending
from publishers.environment import Place, find_place
from publishers.git import read_git
from publishers.hints import read_hints
from publishers.journal.folder import SourceFolder, make_source_folder
from publishers.journal.format import FORMAT_VERSION, SegmentHeader, make_payload
from publishers.journal.rows import MetricRows, check_key
from publishers.journal.writer import Journal, JournalWriter, NoJournal, cause_of
from publishers.launch import (
    ShipperWatch,
    is_launching_wanted,
    is_shipper_running,
    shipper_environment,
    spawn_shipper,
)
from publishers.recorder import MAX_START_FIELD_BYTES, NO_SPOOL, Recorder, check_data
from publishers.run import Run
from publishers.snapshot import Snapshots, read_reserve
from publishers.stopping import StopSign
from publishers.values import plain

__all__ = ["open_run", "start_run"]

_DROPPED_TAG = "trainbus.dropped"


def start_run(
    project: str | None = None,
    name: str | None = None,
    *,
    run_id: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    notes: str = "",
    parent: str | None = None,
    framework: str | None = None,
    config: Mapping[str, Any] | None = None,
    sinks: list[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    rank: int | None = None,
    world: int | World | None = None,
    node: str | None = None,
    attempt: int | None = None,
    strict: bool = False,
    settings: Settings | None = None,
) -> Run:
    """Start a run, or join it as one of its ranks. What is None is taken from the environment.

    Args:
        project: What the run belongs to; ``TRAINBUS_PROJECT``.
        name: What people call it; ``TRAINBUS_RUN_NAME``, by default the run's id.
        run_id: Names it for ever; by default ``TRAINBUS_RUN_ID``, the id of the job, or a new one.
            Of an id that is not given here, the second call in a process takes ``ID~2``, and so on.
        params: As ``run.params(params)``; taken from rank 0 alone.
        tags: Tags to set.
        notes: A description, in Markdown.
        parent: Id of the run this one is nested in.
        framework: What trains, such as ``pytorch``.
        config: Whatever describes the run and is not a parameter.
        sinks: Names of the sinks it goes to; by default all of them.
        options: Per sink, what only that sink understands.
        rank: Rank of this process, from 0.
        world: How many ranks there are, or a :class:`bus.kinds.World` with the nodes too.
        node: This machine; by default its host name.
        attempt: Which try of this rank it is, from 1.
        strict: Raise EventError for values that cannot be taken, instead of counting them.
        settings: Instead of the ``TRAINBUS_*`` variables.

    Raises:
        ConfigError: There is no project, an argument or variable is malformed, or several ranks
            have no run id in common. A spool that cannot be written is no error: it is warned
            about, and training goes on.
    """
    _check_texts(project=project, name=name, run_id=run_id, node=node, parent=parent)
    environ = dict(os.environ)
    used = settings or Settings.from_environment(environ)
    nodes, ranks = (world.nodes, world.ranks) if isinstance(world, World) else (None, world)
    place = find_place(
        environ,
        read_hints(),
        run=run_id,
        project=project,
        name=name,
        node=node,
        rank=rank,
        ranks=ranks,
        nodes=nodes,
        attempt=attempt,
    )
    source = Source(place.run, place.rank, new_incarnation(place.attempt, time.time()), place.node)
    _check_names(place, source, parent)
    started = {
        **_describe_process(place, environ),
        "tags": _texts(tags),
        "notes": notes,
        "parent": parent,
        "framework": framework,
        "config": plain(config or {}),
        "sinks": sinks,
        "options": plain(options or {}),
    }
    _check_started(started)
    watch_environ = None
    if is_launching_wanted(environ):
        watch_environ = shipper_environment(environ, used, is_explicit=settings is not None)
    reserve_bytes = read_reserve(environ)
    # From here on nothing is refused: calls that are do not count.
    place = process_runs.number(place, used.spool)
    source = replace(source, run=place.run)
    run = open_run(place, source, used.spool, watch_environ, reserve_bytes, is_strict=strict)
    run.start(started, params if place.rank == 0 else None)
    return run


def _texts(tags: Any) -> Any:
    """Tags as they travel: every value as text. What is no mapping is left for the check."""
    taken = plain(tags or {})
    return {key: str(tag) for key, tag in taken.items()} if isinstance(taken, dict) else taken


def open_run(
    place: Place,
    source: Source,
    spool: Path,
    watch_environ: Mapping[str, str] | None,
    reserve_bytes: int | None,
    *,
    is_strict: bool,
) -> Run:
    """Make the journal and everything that writes to it. Nothing is written yet.

    Args:
        place: Who this process is.
        source: Its journal's name.
        spool: Where the journal goes.
        watch_environ: Of the shipper to start; None to start none.
        reserve_bytes: See :class:`publishers.snapshot.Snapshots`.
        is_strict: Raise for values that cannot be taken.
    """
    drops = Drops()
    journal, folder = _open_journal(spool, place, source, drops)
    snapshots = watch = None
    if folder is not None:
        snapshots = Snapshots(
            folder.path,
            lambda cause, message: drops.add(cause, message, about=message),
            reserve_bytes=reserve_bytes,
        )
        if watch_environ is not None:
            environ = watch_environ
            watch = ShipperWatch(
                lambda: is_shipper_running(spool), lambda: spawn_shipper(spool, environ), drops
            )
    rows = MetricRows(journal, drops, rank=place.rank, is_strict=is_strict)
    recorder = Recorder(journal, drops, snapshots, is_strict=is_strict)
    ending = Ending(
        place,
        journal,
        folder,
        rows=rows,
        recorder=recorder,
        drops=drops,
        watch=watch,
        is_wrapped=bool(os.environ.get("TRAINBUS_WRAPPER")),
    )
    return Run(
        place,
        source,
        rows=rows,
        recorder=recorder,
        drops=drops,
        ending=ending,
        watch=watch,
        stop_sign=StopSign(folder.path if folder else None, drops),
    )


def _open_journal(
    spool: Path, place: Place, source: Source, drops: Drops
) -> tuple[Journal, SourceFolder | None]:
    """The journal in its folder; one that takes nothing where the spool cannot be written."""

    def header(segment: int) -> bytes:
        return msgspec.json.encode(
            SegmentHeader(
                journal=FORMAT_VERSION,
                segment=segment,
                source=str(source),
                run=place.run,
                project=place.project,
                run_name=place.name,
                pid=os.getpid(),
                wrapper=os.environ.get("TRAINBUS_WRAPPER", ""),
            )
        )

    def recovery() -> bytes:
        name = f"{_DROPPED_TAG}.rank{place.rank}" if place.rank else _DROPPED_TAG
        data = {"set": {name: str(drops.total())}}
        return make_payload({"kind": "tags", "time": time.time(), "data": data})

    def on_failure(error: OSError) -> None:
        drops.add(
            cause_of(error),
            f"the journal in {spool} cannot be written ({error.strerror or error}): "
            "what is logged is lost until it can",
        )

    folder = None
    try:
        folder = make_source_folder(spool, source.rank, source.incarnation)
        return JournalWriter(folder.path, header, on_failure, recovery), folder
    except OSError as error:
        if folder is not None:
            shutil.rmtree(folder.path, ignore_errors=True)
            folder.unlock()
        message = (
            f"the spool {spool} cannot be used ({error.strerror or error}): nothing of run "
            f"{place.run} is recorded; set TRAINBUS_SPOOL to a folder on a local disk"
        )
        drops.warn(NO_SPOOL, message)
        return NoJournal(lambda: drops.add(NO_SPOOL, message)), None


def _describe_process(place: Place, environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        git = read_git(Path.cwd())
    except OSError:
        # The folder the program was started in has been removed.
        git = None
    return {
        "rank": place.rank,
        "attempt": place.attempt,
        "world": {"nodes": place.nodes, "ranks": place.ranks},
        "host": socket.gethostname(),
        "user": environ.get("USER") or environ.get("LOGNAME") or _account(),
        "program": plain(sys.argv[0]) if sys.argv else "",
        "git": msgspec.to_builtins(git),
    }


def _account() -> str:
    """The name of the account this runs as; services and containers set no variable for it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _check_texts(**texts: object) -> None:
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"start_run: {name} is a str, not {type(value).__name__}")


def _check_names(place: Place, source: Source, parent: str | None) -> None:
    try:
        encode_level(place.project, "project")
        if parent is not None:
            encode_level(parent, "parent")
        str(source)
        check_key(place.name)
    except EventError as error:
        raise ConfigError(f"start_run: {error}") from error
    except ValueError as error:
        raise ConfigError(f"start_run: name: {error}") from error


def _check_started(started: dict[str, Any]) -> None:
    try:
        check_data("run_started", started)
    except EventError as error:
        field = error.field.removeprefix("data.")
        raise ConfigError(f"start_run: {field}: {error.reason}") from error
    for name in ("notes", "options"):
        if len(make_payload({name: started[name]})) > MAX_START_FIELD_BYTES:
            raise ConfigError(f"start_run: {name} is over {MAX_START_FIELD_BYTES} bytes")
