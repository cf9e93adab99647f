"""What a run may say about ClearML in the options of its start (sink "clearml"). Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from bus.errors import PermanentSinkError

__all__ = ["TASK_TYPES", "RunOptions"]

TASK_TYPES = frozenset(
    {
        "application",
        "controller",
        "custom",
        "data_processing",
        "inference",
        "monitor",
        "optimizer",
        "qc",
        "service",
        "testing",
        "training",
    }
)
"""``Task.TaskTypes`` of the SDK."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of one run.

    Attributes:
        output_destination: ``output_uri`` of ``Task.init``: noted in the task; an http(s) one is
            the file server to which models go.
        task_type: One of :data:`TASK_TYPES`.
        project: Name of the project in ClearML, where it is not that of the bus.
        store_urls: A model is not copied but named by its URL in the artifact store, where that is
            one that ClearML's clients can read (s3, gs, azure, http).
        all_checkpoints: Every checkpoint becomes an output model, not only best and final ones.
    """

    output_destination: str = ""
    task_type: str = "training"
    project: str = ""
    store_urls: bool = False
    all_checkpoints: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> RunOptions:
        """Read the options of an event; unknown ones are for other versions and ignored.

        Raises:
            PermanentSinkError: One has a value that makes no sense; the message names it.
        """
        known = {field.name for field in fields(cls)}
        given = {key: value for key, value in options.items() if key in known and value is not None}
        for name, value in given.items():
            wanted = bool if name in {"store_urls", "all_checkpoints"} else str
            if not isinstance(value, wanted):
                raise PermanentSinkError(
                    f"option {name!r} for clearml is {value!r}: give a {wanted.__name__}"
                )
        result = cls(**given)
        if result.task_type not in TASK_TYPES:
            raise PermanentSinkError(
                f"option 'task_type' for clearml is {result.task_type!r}: "
                f"use one of {', '.join(sorted(TASK_TYPES))}"
            )
        return result

    @classmethod
    def parse(cls, text: str) -> RunOptions:
        """Read the text form; a damaged one counts as no options."""
        try:
            return cls.of(json.loads(text)) if text else cls()
        except (ValueError, AttributeError, PermanentSinkError):
            return cls()

    def __str__(self) -> str:
        """JSON of what differs from the defaults; empty when nothing does."""
        defaults = asdict(RunOptions())
        changed = {key: value for key, value in asdict(self).items() if value != defaults[key]}
        return json.dumps(changed) if changed else ""
