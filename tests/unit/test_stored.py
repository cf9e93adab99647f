"""Stored-acks, and heartbeats of shippers, as they travel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import EventError
from bus.idranges import IdRanges
from bus.nodes import NodeHeartbeat, decode_node, encode_node
from bus.stored import MAX_RANGES, decode_stored, encode_stored
from tests.fixtures.roadparts import SOURCE

id_sets = st.sets(st.integers(1, 10**6), max_size=30)


@given(st.dictionaries(st.text("abc/-", min_size=1), id_sets))
def test_what_is_encoded_is_decoded(sources: dict[str, set[int]]) -> None:
    stored = {source: IdRanges((n, n) for n in ids) for source, ids in sources.items()}
    assert decode_stored(encode_stored(stored)) == stored


def test_the_lowest_ranges_are_named_when_there_are_too_many() -> None:
    stored = IdRanges((n, n) for n in range(1, 2 * MAX_RANGES + 100, 2))
    named = decode_stored(encode_stored({SOURCE: stored}))[SOURCE]
    assert list(named) == list(stored)[:MAX_RANGES]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b'{"sources":{"\xff":"1"}}',
        b"[" * 100_000,
        b"null",
        b'{"sources":[]}',
        b'{"sources":{"s":1}}',
        b'{"sources":{"s":"0-5"}}',
        b'{"sources":{"s":"9-5"}}',
        b'{"sources":{"s":"-5"}}',
        b'{"sources":{"s":"a"}}',
        b'{"sources":{"s":"1-1000000000000000000"}}',
        b'{"sources":{"s":"1-' + b"9" * 5000 + b'"}}',
    ],
)
def test_nonsense_is_refused_with_one_error(payload: bytes) -> None:
    with pytest.raises(EventError):
        decode_stored(payload)


def test_a_shippers_heartbeat_travels() -> None:
    beat = NodeHeartbeat("node-0", "spool", {SOURCE: 7}, waiting=3, backlog_bytes=100)
    assert decode_node(encode_node(beat)) == beat


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b'{"node":"\xff","spool":"s"}',
        b'{"node":"n"}',
        b'{"node":"n","spool":"s","sources":{"s":0}}',
        b'{"node":"n","spool":"s","sources":{"s":-5}}',
        b'{"node":"n","spool":"s","sources":{"s":1000000000000000000}}',
        b'{"node":"n","spool":"s","sources":{"s":1e400}}',
        b'{"node":"n","spool":"s","sources":' + b"[" * 100_000,
    ],
)
def test_a_malformed_heartbeat_of_a_shipper_is_refused(payload: bytes) -> None:
    with pytest.raises(EventError):
        decode_node(payload)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    for decode in (decode_stored, decode_node):
        try:
            decode(payload)
        except EventError:
            continue
