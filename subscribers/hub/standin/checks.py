"""What HUB v1 enforces of a request. Pure.

Read from its clients (``hub-sdk`` 0.0.25, ``ultralytics`` 8.4.90): they are what it had to take.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

__all__ = ["RefusedError", "check_heartbeat", "check_metrics", "check_model", "check_upload"]

_CONFIG = ("batchSize", "epochs", "imageSize", "patience")


class RefusedError(Exception):
    """The request is refused.

    Attributes:
        status: HTTP status.
        headers: Of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def check_model(body: Any) -> dict[str, Any]:
    """The body that makes a model.

    Raises:
        RefusedError: A field is missing or of a wrong type.
    """
    config = _object(body, "config")
    for name in _CONFIG:
        if not isinstance(config.get(name), int | float) or isinstance(config[name], bool):
            _refuse(f"config.{name} is no number")
    for name in ("device", "cache"):
        _text(config, name)
    _text(_object(body, "dataset"), "name")
    lineage = _object(body, "lineage")
    _text(_object(lineage, "architecture"), "name")
    parent = _object(lineage, "parent")
    if parent:
        _text(parent, "name")
    _text(_object(body, "meta"), "name")
    return dict(body)


def check_metrics(body: Any) -> dict[str, dict[str, Any]]:
    """The metrics in a body, by epoch.

    Raises:
        RefusedError: An epoch is no whole number in a string, or its value no JSON text.
    """
    if not isinstance(body, dict) or body.get("type") != "metrics":
        _refuse("type is not metrics")
    epochs: dict[str, dict[str, Any]] = {}
    for epoch, text in _object(body, "metrics").items():
        if not epoch.removeprefix("-").isdecimal():
            _refuse(f"epoch {epoch!r} is no number")
        if not isinstance(text, str):
            _refuse(f"the metrics of epoch {epoch} are no JSON text")
        try:
            values = json.loads(text, parse_constant=_no_constant)
        except ValueError:
            _refuse(f"the metrics of epoch {epoch} are no JSON text")
        if not isinstance(values, dict):
            _refuse(f"the metrics of epoch {epoch} are no object")
        epochs[epoch] = values
    return epochs


def check_heartbeat(body: Any) -> str | None:
    """The agent id in a heartbeat.

    Raises:
        RefusedError: A field is missing or of a wrong type.
    """
    if not isinstance(body, dict) or "agentId" not in body:
        _refuse("agentId is missing")
    _text(body, "agent")
    agent = body["agentId"]
    if agent is not None and not isinstance(agent, str):
        _refuse("agentId is no text")
    return agent


def check_upload(fields: Mapping[str, str], file: str, file_name: str) -> dict[str, Any]:
    """What an upload says of its file.

    Args:
        fields: The form without the file.
        file: The name of the part that holds the file.
        file_name: The name of the file in it.

    Raises:
        RefusedError: A field is missing or wrong.
    """
    kind = fields.get("type")
    if kind not in {"epoch", "final"}:
        _refuse(f"type {kind!r} is neither epoch nor final")
    epoch = fields.get("epoch", "")
    if not epoch.isdecimal():
        _refuse(f"epoch {epoch!r} is no number")
    if kind == "final":
        expected, told = "best.pt", {"map": _number(fields.get("map"))}
    else:
        is_best = fields.get("isBest")
        if is_best not in {"True", "False"}:
            _refuse(f"isBest {is_best!r} is neither True nor False")
        expected, told = "last.pt", {"isBest": is_best == "True"}
    if (file, file_name) != (expected, expected):
        _refuse(f"the file is {file!r} named {file_name!r}, not {expected}")
    return {"type": kind, "epoch": int(epoch), **told}


def _refuse(message: str) -> NoReturn:
    raise RefusedError(400, message)


def _object(body: Any, name: str) -> dict[str, Any]:
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, dict):
        _refuse(f"{name} is no object")
    return value


def _text(body: Mapping[str, Any], name: str) -> None:
    if not isinstance(body.get(name), str):
        _refuse(f"{name} is no text")


def _number(text: str | None) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        _refuse(f"map {text!r} is no number")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
