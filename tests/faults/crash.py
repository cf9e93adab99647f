"""Runs a command of trainbus that kills itself at a chosen line.

``crash.py MODULE:CLASS.METHOD before|after N -- ARGUMENTS…``: SIGKILL right before, or right after,
the N-th call of a method in the process, as a crash at that line would be.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashing(method: Callable[..., Any], when: str, number: int) -> Callable[..., Any]:
    """The method, with a kill before or after its N-th call."""
    calls = 0

    def is_due() -> bool:
        nonlocal calls
        calls += 1
        return calls == number

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        due = is_due()
        if due and when == "before":
            die()
        result = method(*args, **kwargs)
        if due:
            die()
        return result

    @functools.wraps(method)
    async def wrapped_coroutine(*args: Any, **kwargs: Any) -> Any:
        due = is_due()
        if due and when == "before":
            die()
        result = await method(*args, **kwargs)
        if due:
            die()
        return result

    return wrapped_coroutine if inspect.iscoroutinefunction(method) else wrapped


def main() -> None:
    place, when, number, _, *arguments = sys.argv[1:]
    module_name, _, path = place.partition(":")
    owner_name, _, method_name = path.rpartition(".")
    owner = getattr(importlib.import_module(module_name), owner_name)
    setattr(owner, method_name, crashing(getattr(owner, method_name), when, int(number)))
    sys.argv = arguments
    if arguments[0] == "trainbus":
        from bus.cli.main import main as trainbus

        trainbus()
        return
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
