"""Dead letters on the bus: ``dead/{group}/{project}/{run}``, a JSON object each.

A worker that has the event log's URL keeps its dead letters there itself, and publishes them for
whoever watches; one that has not leaves the keeping to the log group. A letter whose ``state`` is
``resolved`` says that the event was delivered after all.
"""

from __future__ import annotations

import base64
from typing import Annotated

import msgspec
from msgspec import Meta

from bus.errors import EventError
from bus.eventlog.records import OPEN, RESOLVED, DeadLetter
from bus.topics import Topics

__all__ = ["decode_letter", "encode_letter"]


class _Message(msgspec.Struct, omit_defaults=True):
    source: str
    id: Annotated[int, Meta(ge=0, lt=10**18)]
    reason: str
    error: str
    attempts: Annotated[int, Meta(ge=0, lt=2**31)]
    time: float
    event: str
    """The exact bytes of the event, base64: they need not be text."""
    state: str = OPEN


_decoder = msgspec.json.Decoder(_Message)


def encode_letter(letter: DeadLetter) -> bytes:
    """Write a dead letter as it travels; the topic says whose and of which run."""
    return msgspec.json.encode(
        _Message(
            letter.source,
            letter.id,
            letter.reason,
            letter.error,
            letter.attempts,
            letter.time,
            base64.b64encode(letter.raw).decode(),
            letter.state,
        )
    )


def decode_letter(topics: Topics, topic: str, payload: bytes) -> DeadLetter:
    """Read a dead letter.

    Raises:
        EventError: It is none.
    """
    levels = topics.parse_tail(topic)
    try:
        message = _decoder.decode(payload)
        raw = base64.b64decode(message.event, validate=True)
        group, project, run = levels
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise EventError("dead", str(error)) from error
    return DeadLetter(
        group=group,
        source=message.source,
        id=message.id,
        run=run,
        project=project,
        reason=message.reason,
        error=message.error,
        attempts=message.attempts,
        time=message.time,
        raw=raw,
        state=RESOLVED if message.state == RESOLVED else OPEN,
    )
