"""The environment of a command under ``trainbus run``: who the run is, and the way to the hooks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

__all__ = ["GROUP", "SITE", "command_environment", "installed_hooks", "project_of"]

GROUP = "trainbus.hooks"
"""Entry points: the name is a module to wait for, the value a function that takes it."""

SITE = Path(__file__).absolute().with_name("site")
"""The folder with our ``sitecustomize``."""


def installed_hooks(found: Iterable[EntryPoint] | None = None) -> str:
    """The hooks that are installed, as ``TRAINBUS_HOOKS`` holds them.

    They are looked up once, here: asking every package takes longer than an interpreter's start.

    Args:
        found: Instead of those of this environment.
    """
    hooks = entry_points(group=GROUP) if found is None else found
    named = {f"{hook.name}={hook.value.partition('[')[0].strip()}" for hook in hooks}
    return ",".join(sorted(name for name in named if "," not in name))


def project_of(folder: str) -> str:
    """The project of what runs in a folder, when nothing says otherwise: the folder's name."""
    return Path(folder).name or "default"


def command_environment(
    environ: Mapping[str, str],
    *,
    wrapper: str,
    hooks: str,
    run: str | None = None,
    own_run: str | None = None,
    project: str | None = None,
    name: str | None = None,
    is_verbose: bool = False,
) -> dict[str, str]:
    """The environment for a command. What is None stays as it is.

    Args:
        environ: Of this process.
        wrapper: Names this ``trainbus run``, in the journals of its processes.
        hooks: For ``TRAINBUS_HOOKS``; those of a ``trainbus run`` around this one stay.
        run: The run, for ``TRAINBUS_RUN_ID``.
        own_run: The run unless a launcher within the command names one.
        project: For ``TRAINBUS_PROJECT``.
        name: For ``TRAINBUS_RUN_NAME``.
        is_verbose: Hooks say what fails.
    """
    result = dict(environ)
    given = {
        "TRAINBUS_RUN_ID": run,
        "TRAINBUS_WRAPPER_RUN_ID": own_run,
        "TRAINBUS_PROJECT": project,
        "TRAINBUS_RUN_NAME": name,
        "TRAINBUS_VERBOSE": "1" if is_verbose else None,
    }
    result |= {key: value for key, value in given.items() if value is not None}
    result["TRAINBUS_WRAPPER"] = wrapper
    known = [hook for hook in environ.get("TRAINBUS_HOOKS", "").split(",") if hook]
    result["TRAINBUS_HOOKS"] = ",".join(
        dict.fromkeys([*known, *(hook for hook in hooks.split(",") if hook)])
    )
    result["PYTHONPATH"] = _python_path(environ.get("PYTHONPATH", ""))
    return result


def _python_path(previous: str) -> str:
    """Our folder in front; an empty part in the middle means the working folder, and stays one."""
    site = str(SITE)
    parts = previous.split(os.pathsep) if previous else []
    return os.pathsep.join([site, *(part for part in parts if part != site)])
