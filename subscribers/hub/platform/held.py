"""What the sink knows of a run between two batches, and how it is kept in ``sink_state``.

Two parts, because they change at different times. What the *events* have said (:class:`Held`)
changes with the applied marks, in one write. What *Platform* has answered (:class:`Told`) is kept
after every request, so that a worker killed between two of them repeats one at the most.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

from bus.errors import PermanentSinkError
from bus.kinds import Blob
from bus.sinks import RunRef
from subscribers.hub.platform.epochs import Epochs
from subscribers.hub.platform.values import Value

__all__ = [
    "Curve",
    "Held",
    "Staged",
    "Start",
    "Told",
    "load_held",
    "load_told",
    "to_fields",
]

_MAX_DONE = 20_000
"""Requests that are remembered as made while their batch is not finished: more than the rows that
an event can hold."""


class Start(Struct, omit_defaults=True):
    """How an attempt began; it is sent once its params are known, or something else must go.

    Attributes:
        is_due: More than the beginning has come.
    """

    args: dict[str, str] = field(default_factory=dict)
    epochs: int | None = None
    device: str | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    is_due: bool = False


class Curve(Struct, frozen=True):
    """A plot that is data and no picture: where it is."""

    dataref: str
    blob: Blob


class Held(Struct, omit_defaults=True):
    """What the events of a run have said.

    Attributes:
        attempt: The highest of rank 0; 0 before it began.
        life: Text form of the run's RunLife.
        ended: What Platform was last told about the end, with its attempt; empty while it runs.
        start: An attempt that Platform does not know of yet.
        project: Instead of the run's own, as its options say.
        name: Likewise.
        model_info: Parameters, GFLOPs and speed, as Platform calls them.
        model_epoch: The epoch that carries them.
        chunks: How much console output was sent.
        row_at: When the last metrics were written, Unix seconds.
    """

    attempt: int = 0
    life: str = ""
    ended: str = ""
    error: str = ""
    start: Start | None = None
    project: str = ""
    name: str = ""
    epochs: Epochs = field(default_factory=Epochs)
    model_info: dict[str, Value] = field(default_factory=dict)
    model_epoch: int | None = None
    summary: dict[str, Value] = field(default_factory=dict)
    class_names: list[str] | None = None
    curves: dict[str, Curve] = field(default_factory=dict)
    chunks: int = 0
    row_at: float = 0.0

    def copy(self) -> Held:
        """An independent twin."""
        return msgspec.convert(msgspec.to_builtins(self), Held)


class Staged(Struct, frozen=True):
    """A checkpoint that was uploaded, and of which Platform does not know yet.

    Attributes:
        key: Of the request that says so.
        path: Where it is, in Platform's words.
        upload_path: Likewise.
        size: Bytes.
    """

    key: str
    path: str
    upload_path: str | None
    size: int


class Told(Struct, omit_defaults=True):
    """What Platform has answered about a run.

    Attributes:
        model_id: Empty until it was registered.
        model_path: Of the checkpoint that Platform holds as the run's model.
        is_best: That is a best one, or the final one.
        staged: A checkpoint that has only been uploaded.
        stops: How many workers have passed on that the run is to stop.
        done: Requests made for events whose marks are not written yet.
        refused: What was refused after its events had been accepted.
    """

    model_id: str = ""
    run_id: int | str | None = None
    model_url: str = ""
    model_path: str = ""
    model_size: int = 0
    is_best: bool = False
    staged: Staged | None = None
    stops: int = 0
    done: list[str] = field(default_factory=list)
    refused: int = 0

    def note_done(self, key: str) -> None:
        """A request was made."""
        self.done = [*self.done, key][-_MAX_DONE:]

    def forget(self, place: str) -> bool:
        """Another request is to be made for a place; whether one for it had been noted.

        A batch that is cut otherwise than before may ask for an epoch as it was meanwhile, and
        the next one for it as it was sent first.
        """
        kept = [one for one in self.done if not one.startswith(f"{place}:")]
        has_some = len(kept) < len(self.done)
        self.done = kept
        return has_some


_Part = TypeVar("_Part", Held, Told)


def load_held(fields: dict[str, Any], run: RunRef) -> Held:
    """Read back what :func:`to_fields` made.

    Raises:
        PermanentSinkError: It is damaged.
    """
    return _load(fields.get("held"), Held, run)


def load_told(fields: dict[str, Any], run: RunRef) -> Told:
    """As :func:`load_held`."""
    return _load(fields.get("told"), Told, run)


def to_fields(part: Held | Told) -> dict[str, Any]:
    """A part as JSON."""
    fields: dict[str, Any] = msgspec.to_builtins(part, str_keys=True)
    return fields


def _load(fields: Any, kind: type[_Part], run: RunRef) -> _Part:
    try:
        return msgspec.convert(fields or {}, kind)
    except msgspec.ValidationError as error:
        raise PermanentSinkError(
            f"run {run.run!r}: what table sink_state of the event log holds of it is damaged "
            f"({error}): delete that row to begin the run anew"
        ) from error
