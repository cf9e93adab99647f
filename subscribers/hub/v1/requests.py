"""The requests of HUB v1 as its own clients send them. Pure.

Read from ``hub-sdk`` 0.0.25 and from what ``ultralytics`` 8.4.90 sends through it.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ARGUMENTS",
    "Form",
    "Values",
    "checkpoint_form",
    "create_body",
    "final_form",
    "heartbeat_body",
    "metrics_body",
]

ARGUMENTS = ("batch", "epochs", "imgsz", "patience", "device", "cache", "data", "model")
"""Training arguments that a new model is made of, by Ultralytics' names."""

Values = Mapping[str, float | int | None]


def create_body(arguments: Mapping[str, Any], file: str | None, run_name: str) -> dict[str, Any]:
    """``POST /v1/models``: a new model.

    Args:
        arguments: Those of :data:`ARGUMENTS` that are known; the defaults are Ultralytics'.
        file: What it begins from; None for a run that names nothing of the kind.
        run_name: Its name then.
    """
    name = file or run_name
    return {
        "config": {
            "batchSize": _number(arguments.get("batch"), -1),
            "epochs": _number(arguments.get("epochs"), 300),
            "imageSize": _number(arguments.get("imgsz"), 640),
            "patience": _number(arguments.get("patience"), 100),
            "device": _text(arguments.get("device"), ""),
            "cache": _text(arguments.get("cache"), "False"),
        },
        "dataset": {"name": _text(arguments.get("data"), "")},
        "lineage": {
            "architecture": {"name": name.removesuffix(".pt").removesuffix(".yaml")},
            "parent": {"name": name} if name.endswith(".pt") else {},
        },
        "meta": {"name": name},
    }


def metrics_body(epochs: Mapping[int, Values]) -> dict[str, Any]:
    """``POST /v1/models/ID``: metrics by epoch, each epoch as a JSON text of its own.

    JSON has no NaN and no infinities: they are null.
    """
    texts = {
        str(epoch): json.dumps(
            {name: _finite(value) for name, value in values.items()}, allow_nan=False
        )
        for epoch, values in sorted(epochs.items())
    }
    return {"metrics": texts, "type": "metrics"}


def heartbeat_body(agent_id: str | None) -> dict[str, Any]:
    """``POST /v1/agent/heartbeat/models/ID``; the id is the one of the last answer."""
    return {"agent": f"python-{platform.python_version()}-local", "agentId": agent_id}


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart body around one file.

    Attributes:
        head: What comes before the bytes of the file.
        tail: What comes after.
        content_type: Of the whole.
        file: The name of the file.
    """

    head: bytes
    tail: bytes
    content_type: str
    file: str


def checkpoint_form(epoch: int, is_best: bool, boundary: str) -> Form:
    """``POST /v1/models/ID/upload`` of weights during training.

    Args:
        epoch: Which they are of.
        is_best: They are the best so far.
        boundary: 32 hex digits that the file does not hold.
    """
    fields = [("epoch", str(epoch)), ("type", "epoch"), ("isBest", str(is_best))]
    return _form(fields, "last.pt", boundary)


def final_form(epoch: int, mean_average_precision: float, boundary: str) -> Form:
    """``POST /v1/models/ID/upload`` of the model that training has come to."""
    fields = [("epoch", str(epoch)), ("type", "final"), ("map", str(mean_average_precision))]
    return _form(fields, "best.pt", boundary)


def _form(fields: Sequence[tuple[str, str]], file: str, boundary: str) -> Form:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{file}"; filename="{file}"\r\n\r\n'
    )
    return Form(
        "".join(parts).encode(),
        f"\r\n--{boundary}--\r\n".encode(),
        f"multipart/form-data; boundary={boundary}",
        file,
    )


def _finite(value: float | int | None) -> float | int | None:
    return value if value is not None and math.isfinite(value) else None


def _number(value: Any, default: int) -> int | float:
    """A number that may have come as text, as arguments of other publishers do."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return default
    if not math.isfinite(number):
        return default
    return int(number) if number.is_integer() else number


def _text(value: Any, default: str) -> str:
    return default if value is None else str(value)
