"""What members of a group tell each other."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import EventError
from bus.group.heartbeat import Heartbeat, decode_heartbeat


def test_a_heartbeat_travels() -> None:
    beat = Heartbeat("host-1", 8, [0, 3], [3], {"0": "token"}, {"lag": 2})
    assert decode_heartbeat(msgspec.json.encode(beat)) == beat


def test_fields_of_a_later_version_are_ignored() -> None:
    beat = decode_heartbeat(b'{"member":"m","shards":8,"mood":"good"}')
    assert beat == Heartbeat("m", 8)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xff",
        b'{"member":"\xff","shards":8}',
        b'{"member":"m"}',
        b'{"member":"m","shards":0}',
        b'{"member":"m","shards":-8}',
        b'{"member":"m","shards":65}',
        b'{"member":"m","shards":8,"owned":[-1]}',
        b'{"member":"m","shards":8,"owned":[64]}',
        b'{"member":"m","shards":8,"idle":["0"]}',
        b'{"member":"m","shards":8,"report":' + b'{"a":' * 100_000,
    ],
)
def test_a_malformed_heartbeat_is_refused(payload: bytes) -> None:
    with pytest.raises(EventError):
        decode_heartbeat(payload)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    with contextlib.suppress(EventError):
        decode_heartbeat(payload)
