"""Nothing a callback does may reach the trainer: one that raises ends the training."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from publishers.drops import Drops

__all__ = ["guarded", "is_first_rank", "warnings"]

warnings = Drops()
"""What was warned about, once for each callback."""


def is_first_rank() -> bool:
    """Whether this process speaks for the training: the others of a DDP training do not."""
    # As ultralytics and YOLOv5 read it.
    return os.environ.get("RANK", "-1") in {"-1", "0", ""}


def guarded(callback: Callable[..., None]) -> Callable[..., None]:
    """A callback that only runs in the first rank, and only warns, once, where it fails.

    It can be pickled by its name, as a DDP training does.
    """

    @functools.wraps(callback)
    def call(*args: Any, **kwargs: Any) -> None:
        if not is_first_rank():
            return
        try:
            callback(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  # whatever it is, the training goes on
            warnings.warn(
                "integration",
                f"{callback.__name__} failed, the training goes on without what it publishes: "
                f"{type(error).__name__}: {error}",
                about=f"{callback.__module__}.{callback.__name__}",
            )

    return call
