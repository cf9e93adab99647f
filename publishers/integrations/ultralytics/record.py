"""Which run a training folder belongs to, kept beside its weights for a resume.

A file of JSON in the folder that holds ``weights/``. A training that is resumed goes on with the
run as its next attempt; anything else begins a run of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from publishers.values import plain

__all__ = ["RunRecord", "find_record", "split_params"]

_NAME = "trainbus.json"
_MAX_BYTES = 1024 * 1024


class RunRecord(msgspec.Struct, frozen=True):
    """A run as its folder remembers it.

    Attributes:
        attempt: The last that began.
        params: Those of the first attempt.
    """

    run: str
    project: str
    name: str
    attempt: int = 1
    params: dict[str, Any] = {}

    def write(self, folder: Path) -> None:
        """Keep it in a folder, in place of what is there.

        Raises:
            OSError: It cannot be written.
        """
        path = folder / _NAME
        part = path.with_name(f".{_NAME}.{os.getpid()}")
        part.write_bytes(msgspec.json.encode(self))
        part.replace(path)


def find_record(resumed: object, folder: Path) -> RunRecord | None:
    """What is known of the run that a training resumes; None when it resumes none.

    Args:
        resumed: The weights it goes on from, as ``args.resume`` names them; empty for none.
        folder: Where it writes.
    """
    if not resumed:
        return None
    folders = [folder]
    if isinstance(resumed, str | os.PathLike):
        folders.insert(0, Path(resumed).parent.parent)
    for place in folders:
        record = _read(place / _NAME)
        if record is not None:
            return record
    return None


def split_params(
    params: Mapping[str, Any], record: RunRecord | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Params as they were in the first attempt, and those that are others now.

    Trackers keep the first value of a param: what changed is logged in a section of its own.
    """
    if record is None:
        return dict(params), {}
    changed = {
        name: value
        for name, value in params.items()
        if record.params.get(name, value) != plain(value)
    }
    return {name: value for name, value in params.items() if name not in changed}, changed


def _read(path: Path) -> RunRecord | None:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        found = msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if found.run and found.project and found.attempt >= 1 else None
