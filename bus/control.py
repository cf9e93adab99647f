"""What a run is told while it is under way, on ``control/{project}/{run}``: so far, to stop.

``{"action":"stop","reason":"loss diverged","by":"trainbus stop","time":1767225600.1,
"sources":["/runs/…"]}``. Shippers leave it as a note for the processes they serve, which read it as
``run.should_stop``.

``sources`` names the processes that are meant. A notice that names them may be sent again and again
until it has arrived: a training that was started anew since is not among them. One that names none
is for every process of the run that a shipper serves when it arrives, and is to be sent once only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from bus.errors import EventError
from bus.source import Source

__all__ = ["MAX_SOURCES", "StopNotice", "decode_control", "encode_stop"]

MAX_SOURCES = 5000
"""So many processes may be named at once: at 150 bytes each well below 1 MiB, which NATS takes."""

MAX_REASON_CHARACTERS = 1000
MAX_BY_CHARACTERS = 200
MAX_SOURCE_CHARACTERS = 4096
MAX_BYTES = 1024 * 1024


_SourceName = Annotated[str, Meta(max_length=MAX_SOURCE_CHARACTERS)]


class StopNotice(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="action", tag="stop"):
    """A run is to stop.

    Attributes:
        reason: Why, in one line; may be empty.
        by: Who asks: the name of a sink, or ``trainbus stop``.
        time: When it was asked, Unix seconds by the clock of who asks.
        sources: The processes that are meant; empty for all that are there.
    """

    reason: Annotated[str, Meta(max_length=MAX_REASON_CHARACTERS)]
    by: Annotated[str, Meta(min_length=1, max_length=MAX_BY_CHARACTERS)]
    time: Annotated[float, Meta(ge=0)]
    sources: Annotated[tuple[_SourceName, ...], Meta(max_length=MAX_SOURCES)] = ()

    @property
    def text(self) -> str:
        """What to show: the reason or, where none was given, who asked."""
        return self.reason or f"asked by {self.by}"


_decoder = msgspec.json.Decoder(StopNotice)


def encode_stop(reason: str, by: str, time: float, sources: Iterable[str] = ()) -> bytes:
    """Write a notice that asks a run to stop.

    Args:
        reason: Why; any text, of which one line of 1,000 characters is kept.
        by: Who asks: the name of a sink, or ``trainbus stop``.
        time: Unix seconds.
        sources: The processes that are meant, as :class:`bus.source.Source` writes them; none for
            all that are there when it arrives.

    Raises:
        EventError: More than :data:`MAX_SOURCES` are named: send several notices.
    """
    names = tuple(sources)
    if len(names) > MAX_SOURCES:
        raise EventError("control.sources", f"{len(names)} are over {MAX_SOURCES}")
    who = _one_line(by, MAX_BY_CHARACTERS) or "somebody"
    notice = StopNotice(_one_line(reason, MAX_REASON_CHARACTERS), who, time, names)
    return msgspec.json.encode(notice)


def decode_control(payload: bytes) -> StopNotice:
    """Read a notice.

    Raises:
        EventError: It is none, or of an action that this program does not know.
    """
    if len(payload) > MAX_BYTES:
        raise EventError("control", f"{len(payload)} bytes are over {MAX_BYTES}")
    try:
        notice = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError("control", str(error)) from error
    # It is printed by training programs: no control characters, no second line.
    for field, text in (("reason", notice.reason), ("by", notice.by)):
        if not text.isprintable():
            raise EventError(f"control.{field}", "holds a character that cannot be printed")
    for source in notice.sources:
        Source.parse(source)
    return notice


def _one_line(text: str, most: int) -> str:
    """Any text as one line that can be printed and encoded."""
    joined = " ".join(text.split())
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in joined)[
        :most
    ]
