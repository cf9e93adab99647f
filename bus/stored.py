"""Stored-acks: what the log group tells shippers and sinks of a run.

``{"sources":{"/runs/…":"1-500,502-510"}}``: per source the ids that are stored, as ranges: the
highest id without a hole below it, and the holes above. Ids recorded as lost count as stored: they
are not to be waited for.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import orjson

from bus.errors import EventError
from bus.idranges import IdRanges

__all__ = ["decode_stored", "encode_stored"]

_ID_LIMIT = 10**18
"""Ids have at most 18 digits (:mod:`bus.events`)."""

MAX_RANGES = 2000
"""So many ranges of a source are named; what lies above is named in a later ack."""


class _StoredAck(msgspec.Struct):
    sources: dict[str, str]


_decoder = msgspec.json.Decoder(_StoredAck)


def encode_stored(sources: Mapping[str, IdRanges]) -> bytes:
    """Write a stored-ack."""
    return orjson.dumps({"sources": {source: _text(ranges) for source, ranges in sources.items()}})


def decode_stored(payload: bytes) -> dict[str, IdRanges]:
    """Read a stored-ack.

    Raises:
        EventError: It is none.
    """
    try:
        ack = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError("stored", str(error)) from error
    stored = {source: IdRanges.parse(text) for source, text in ack.sources.items()}
    for source, ranges in stored.items():
        if ranges.top >= _ID_LIMIT:
            raise EventError(f"stored.sources[{source!r}]", f"{ranges.top} is no id of an event")
    return stored


def _text(ranges: IdRanges) -> str:
    text = str(ranges)
    if text.count(",") < MAX_RANGES:
        return text
    return ",".join(text.split(",", MAX_RANGES)[:MAX_RANGES])
