"""Events on the wire: CloudEvents 1.0 in structured JSON mode, one per MQTT message.

Two readers, by what they need:

- :func:`decode_envelope` reads who, what and when, and leaves ``data`` as bytes: all that the
  event log and the sequencer need.
- :func:`decode` also checks ``data`` against the Struct of its kind (:mod:`bus.kinds`): what a
  sink needs.

Format: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md; the
``dataref`` extension: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/extensions/dataref.md.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal

import msgspec
import orjson

from bus.errors import EventError
from bus.kinds import KINDS, KindData, Metrics
from bus.source import Source

__all__ = [
    "MAX_EVENT_BYTES",
    "Envelope",
    "Event",
    "decode",
    "decode_envelope",
    "encode",
    "format_id",
    "format_time",
    "kind_of_type",
    "metric_points",
    "type_of_kind",
]

MAX_EVENT_BYTES = 256 * 1024
"""Largest event. Bytes belong in the artifact store; brokers bound their messages too."""

_TYPE_PREFIX = "trainbus."
_TYPE_SUFFIX = ".v1"
_ID = re.compile(r"[0-9]{1,18}")
_MISSING = re.compile(r"missing required field `(\w+)`")


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """The CloudEvents context of an event, with ``data`` still as bytes.

    Attributes:
        subject: The run's id.
        runname: The name people gave the run.
        time: When it happened, RFC 3339 in UTC; of the first row for metrics.
        dataref: URL of the bytes in the artifact store, for the kinds that have any.
    """

    specversion: Literal["1.0"]
    type: str
    source: str
    id: str
    subject: str
    time: datetime
    datacontenttype: Literal["application/json"]
    project: str
    runname: str
    data: msgspec.Raw
    dataref: str | None = None
    traceparent: str | None = None

    @property
    def kind(self) -> str:
        """The kind, as in the topic."""
        return kind_of_type(self.type)

    @property
    def number(self) -> int:
        """The id as a number, from 1."""
        return int(self.id)

    @property
    def time_seconds(self) -> float:
        """``time`` as Unix seconds."""
        return self.time.timestamp()


class Event(msgspec.Struct, frozen=True):
    """A whole event, checked.

    Attributes:
        source: Text of :class:`bus.source.Source`.
        id: Sequence number in its source, from 1.
        time: Unix seconds.
        data: The Struct of its kind.
        size: Bytes on the wire.
    """

    kind: str
    source: str
    id: int
    run: str
    project: str
    run_name: str
    time: float
    data: KindData
    dataref: str | None = None
    size: int = 0


_envelope_decoder = msgspec.json.Decoder(Envelope)
_data_decoders = {kind: msgspec.json.Decoder(struct) for kind, struct in KINDS.items()}


def type_of_kind(kind: str) -> str:
    """The CloudEvents ``type`` of a kind."""
    return f"{_TYPE_PREFIX}{kind}{_TYPE_SUFFIX}"


def kind_of_type(type_: str) -> str:
    """The kind of a CloudEvents ``type``.

    Raises:
        EventError: It is not a type of ours.
    """
    kind = type_.removeprefix(_TYPE_PREFIX).removesuffix(_TYPE_SUFFIX)
    if kind not in KINDS or type_ != type_of_kind(kind):
        raise EventError("type", f"{type_!r} is unknown; known kinds: {', '.join(KINDS)}")
    return kind


def format_id(number: int) -> str:
    """An id as it travels: twelve digits or more, so that text order is number order."""
    return f"{number:012d}"


def format_time(seconds: float) -> str:
    """Unix seconds as RFC 3339 in UTC, to the microsecond."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    return text.removesuffix("+00:00") + "Z"


def decode_envelope(raw: bytes) -> Envelope:
    """Read the context of an event and leave its data alone.

    Raises:
        EventError: It is too large, not JSON, or a field is missing, of a wrong type or malformed.
    """
    if len(raw) > MAX_EVENT_BYTES:
        raise EventError("event", f"has {len(raw)} bytes, over {MAX_EVENT_BYTES}")
    try:
        envelope = _envelope_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _event_error(error, "event") from error
    kind_of_type(envelope.type)
    if envelope.time.tzinfo is None:
        raise EventError("time", "has no time zone: RFC 3339 asks for one")
    if not (_ID.fullmatch(envelope.id) and int(envelope.id) >= 1):
        raise EventError("id", f"{envelope.id[:40]!r} is no sequence number from 1")
    if format_id(int(envelope.id)) != envelope.id:
        raise EventError("id", f"{envelope.id!r} is not padded to twelve digits")
    if Source.parse(envelope.source).run != envelope.subject:
        raise EventError("subject", f"{envelope.subject!r} is not the run in the source")
    for name in ("project", "runname"):
        if not getattr(envelope, name):
            raise EventError(name, "is empty")
    return envelope


def decode(raw: bytes) -> Event:
    """Read a whole event and check its data.

    Raises:
        EventError: As :func:`decode_envelope`, or ``data`` breaks the contract of its kind.
    """
    envelope = decode_envelope(raw)
    kind = envelope.kind
    try:
        data: KindData = _data_decoders[kind].decode(envelope.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _event_error(error, "data") from error
    if isinstance(data, Metrics):
        _check_tables(data)
    if hasattr(data, "blob") and not envelope.dataref:
        raise EventError("dataref", f"is missing: a {kind} has bytes in the artifact store")
    return Event(
        kind=kind,
        source=envelope.source,
        id=envelope.number,
        run=envelope.subject,
        project=envelope.project,
        run_name=envelope.runname,
        time=envelope.time_seconds,
        data=data,
        dataref=envelope.dataref,
        size=len(raw),
    )


def encode(event: Event) -> bytes:
    """Write an event as it travels.

    Metrics from a journal do not come this way: the shipper joins their bytes.

    Raises:
        EventError: It is over :data:`MAX_EVENT_BYTES`, or holds what JSON cannot.
    """
    try:
        time = format_time(event.time)
    except (ValueError, OverflowError, OSError) as error:
        raise EventError("time", f"{event.time!r} is no time: {error}") from error
    context = {
        "specversion": "1.0",
        "type": type_of_kind(event.kind),
        "source": event.source,
        "id": format_id(event.id),
        "subject": event.run,
        "time": time,
        "datacontenttype": "application/json",
        "project": event.project,
        "runname": event.run_name,
    }
    if event.dataref is not None:
        context["dataref"] = event.dataref
    try:
        data = msgspec.json.encode(event.data)
        raw = orjson.dumps({**context, "data": orjson.Fragment(data)})
    except (TypeError, ValueError, OverflowError) as error:
        raise EventError("data", str(error)) from error
    if len(raw) > MAX_EVENT_BYTES:
        raise EventError("event", f"has {len(raw)} bytes, over {MAX_EVENT_BYTES}")
    return raw


def metric_points(data: Metrics) -> int:
    """How many points (one value of one key) the tables hold."""
    return sum(len(table.keys) * len(table.rows) for table in data.tables)


def _check_tables(data: Metrics) -> None:
    for index, table in enumerate(data.tables):
        width = len(table.keys) + 2
        for number, row in enumerate(table.rows):
            where = f"data.tables[{index}].rows[{number}]"
            if len(row) != width:
                reason = f"has {len(row)} values, not time, step and {width - 2}"
                raise EventError(where, reason)
            if type(row[1]) is not int or not isinstance(row[0], int | float):
                raise EventError(where, "begins with a time in seconds and a whole step")


def _event_error(error: Exception, root: str) -> EventError:
    """Turn msgspec's "… - at `$.data.tables[0]`" into the field and the reason."""
    reason, _, path = str(error).partition(" - at `")
    field = path.rstrip("`").replace("$", root, 1) if path else root
    missing = _MISSING.search(reason)
    if missing:
        field = f"{field}.{missing[1]}"
    if field.startswith("event."):
        field = field.removeprefix("event.")
    return EventError(field, reason or type(error).__name__)
