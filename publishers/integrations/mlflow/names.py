"""Ids and addresses that the plugin gives to MLflow. Pure; needs no MLflow.

An experiment's id is made of its name, and says it, so that processes that hand each other an id
(``MLFLOW_EXPERIMENT_ID``) mean the same experiment without asking anybody.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from bus.errors import EventError
from bus.topics import decode_level, encode_level

__all__ = [
    "ARTIFACT_SCHEME",
    "DEFAULT_ID",
    "DEFAULT_NAME",
    "TRACKING_URI",
    "Place",
    "artifact_uri",
    "experiment_id",
    "experiment_name",
    "is_run_id",
    "join",
    "place_of",
]

TRACKING_URI = "trainbus:"

ARTIFACT_SCHEME = "trainbus-artifacts"

DEFAULT_NAME = "Default"
"""MLflow's name of the experiment of runs that name none."""

DEFAULT_ID = "0"

_RUN_ID = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}")

_READABLE = "p-"
_HASHED = "h-"

_MAX_ID = 64
"""As MLflow checks it: ``^[a-zA-Z0-9][\\w\\-]{0,63}$``."""


class Place(NamedTuple):
    """Where an artifact is.

    Attributes:
        owner: ``runs/{run id}`` or ``models/{model id}``.
        path: Below its owner; empty for all that it has.
    """

    owner: str
    path: str


def experiment_id(name: str) -> str:
    """The id of the experiment of that name.

    Raises:
        EventError: The name cannot be a project's.
    """
    if name == DEFAULT_NAME:
        return DEFAULT_ID
    readable = _READABLE + encode_level(name, "experiment")
    if len(readable) <= _MAX_ID:
        return readable
    return _HASHED + hashlib.sha256(name.encode()).hexdigest()[:40]


def experiment_name(identifier: str) -> str | None:
    """The name that an id says; None where it says none."""
    if identifier == DEFAULT_ID:
        return DEFAULT_NAME
    if not identifier.startswith(_READABLE):
        return None
    try:
        return decode_level(identifier.removeprefix(_READABLE))
    except EventError:
        return None


def is_run_id(text: str) -> bool:
    """Whether MLflow takes a text for a run's id."""
    return _RUN_ID.fullmatch(text) is not None


def artifact_uri(owner: str) -> str:
    """The address of what a run or model has."""
    return f"{ARTIFACT_SCHEME}:/{quote(owner)}/artifacts"


def place_of(uri: str) -> Place | None:
    """What an address stands for; None when it is none of the plugin's."""
    scheme, _, path = uri.partition(":")
    parts = [part for part in path.split("/") if part]
    if scheme != ARTIFACT_SCHEME or len(parts) < 3 or parts[2] != "artifacts":
        return None
    if parts[0] not in {"runs", "models"}:
        return None
    # MLflow appends paths as they are.
    return Place(f"{parts[0]}/{unquote(parts[1])}", join(*parts[3:]))


def join(*paths: str | None) -> str:
    """Relative paths one below the other; empty ones and dots go.

    Raises:
        ValueError: One leads upwards.
    """
    parts = [part for path in paths for part in (path or "").split("/") if part not in {"", "."}]
    if ".." in parts:
        raise ValueError(f"{'/'.join(parts)!r} leads out of the artifacts of its run")
    return "/".join(parts)
