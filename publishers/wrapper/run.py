"""Runs one command under the bus, from its environment to the word about its end."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bus.config import Settings
from bus.errors import ConfigError, TrainbusError
from publishers.auto.environ import command_environment, installed_hooks, project_of
from publishers.claims import forget_claims
from publishers.environment import Place, find_place
from publishers.hints import read_hints
from publishers.launch import (
    is_launching_wanted,
    is_shipper_running,
    shipper_environment,
    spawn_shipper,
)
from publishers.wrapper.attached import Attached
from publishers.wrapper.child import Child, Signals
from publishers.wrapper.notes import Journals, all_gone
from publishers.wrapper.oom import count_oom_kills, counter_of
from publishers.wrapper.status import Ended, status_of_failure, words_for

__all__ = ["Options", "run_command"]

TICK_SECONDS = 0.5
"""How often the wrapper looks after what it does besides waiting."""

DELIVERY_SECONDS = 10.0
"""How long the end is waited for to be stored, as ``finish`` does: with process 1 of a container
the shipper goes too."""

_DELIVERY_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    project: str | None = None
    name: str | None = None
    run_id: str | None = None
    is_console: bool = False
    is_system: bool = False
    is_verbose: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is settled before the command starts.

    Attributes:
        place: Who a process is that the command starts by itself; None when that cannot be told
            from here.
        environ: Of the command.
        wrapper: The name of this ``trainbus run``.
    """

    settings: Settings
    place: Place | None
    environ: dict[str, str]
    wrapper: str


def run_command(command: Sequence[str], options: Options) -> Ended:
    """Run a command, and leave word of how it ended.

    The signals that are passed on stay blocked: none of them may change the exit status any more.

    Raises:
        ConfigError: A setting is malformed.
    """
    plan = make_plan(dict(os.environ), options, _working_folder())
    signals = Signals()
    journals = Journals(plan.settings.spool, plan.wrapper)
    attached = Attached(
        plan.settings,
        plan.place,
        journals,
        is_console=options.is_console,
        is_system=options.is_system,
    )
    counter = counter_of()
    kills_before = count_oom_kills(counter)
    try:
        child = Child(command, plan.environ, signals, attached.outputs)
    except OSError as error:
        attached.abandon()
        _say(f"{command[0]}: {error.strerror or error}")
        return Ended(status_of_failure(error))
    attached.start(child)
    ended = child.wait(attached.tick, TICK_SECONDS)
    try:
        kills = count_oom_kills(counter) - kills_before
        note = words_for(ended, kills, time.time(), child.pid)
        folders = journals.leave_notes(note)
        folders += attached.finish(note, signals.is_asked_to_end)
        own_run = plan.environ.get("TRAINBUS_WRAPPER_RUN_ID")
        if own_run and "TRAINBUS_WRAPPER_RUN_ID" not in os.environ:
            forget_claims(plan.settings.spool, own_run)
        if options.is_verbose:
            _say(_describe(journals, attached))
        _see_to_delivery(plan, signals, folders)
    except Exception as error:  # noqa: BLE001  # the exit status is the command's, whatever comes
        if options.is_verbose:
            _say(f"the run is not told how the command ended: {type(error).__name__}: {error}")
    return ended


def make_plan(environ: Mapping[str, str], options: Options, folder: str) -> Plan:
    """Decide who the run is, and what the command is told.

    Args:
        environ: Of this process.
        options: From the command line.
        folder: The working folder.

    Raises:
        ConfigError: A setting is malformed.
    """
    settings = Settings.from_environment(environ)
    project = options.project or environ.get("TRAINBUS_PROJECT") or project_of(folder)
    wrapper = f"{os.getpid()}-{os.urandom(6).hex()}"
    place = None
    with suppress(ConfigError):
        # On several nodes without a common id the training itself says what is missing.
        place = find_place(
            environ, read_hints(), run=options.run_id, project=project, name=options.name
        )
    run, own_run = options.run_id or environ.get("TRAINBUS_RUN_ID"), None
    if place is not None and not run:
        if place.ranks > 1 or place.origin == "job":
            # What started us names the job; what we start has us for its parent.
            run = place.run
        else:
            own_run = place.run
    told = command_environment(
        environ,
        wrapper=wrapper,
        hooks=_hooks(options),
        run=run,
        own_run=own_run,
        project=project,
        name=options.name,
        is_verbose=options.is_verbose,
    )
    return Plan(settings, place, told, wrapper)


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        # It has been removed.
        return ""


def _hooks(options: Options) -> str:
    try:
        return installed_hooks()
    except Exception as error:  # noqa: BLE001  # the metadata of any package may be damaged
        if options.is_verbose:
            _say(f"no hooks: {type(error).__name__}: {error}")
        return ""


def _say(text: str) -> None:
    """A line on standard error, if that is open."""
    with suppress(OSError):
        os.write(2, f"trainbus: {text}\n".encode(errors="replace"))


def _see_to_delivery(plan: Plan, signals: Signals, folders: list[Path]) -> None:
    """Wait until the ends are stored, for a while, and unless a signal says that it is enough."""
    if not folders:
        return
    spool = plan.settings.spool
    if not is_shipper_running(spool):
        try:
            if not is_launching_wanted(plan.environ):
                return
            # The training may have taken the shipper with it.
            spawn_shipper(spool, shipper_environment(os.environ, plan.settings, is_explicit=False))
        except (OSError, TrainbusError):
            # What is in the spool is delivered by the next one.
            return
    deadline = time.monotonic() + DELIVERY_SECONDS
    while not all_gone(folders) and time.monotonic() < deadline:
        if signals.is_asked_to_end(_DELIVERY_POLL_SECONDS):
            break


def _describe(journals: Journals, attached: Attached) -> str:
    runs = {header.run for header in journals.seen} | attached.runs
    if not runs:
        return "the command has started no run: nothing was published"
    return f"published to {', '.join(f'run {run}' for run in sorted(runs))}"
