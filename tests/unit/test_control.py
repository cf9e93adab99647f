"""Notices to running runs, as they travel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.control import (
    MAX_REASON_CHARACTERS,
    MAX_SOURCES,
    StopNotice,
    decode_control,
    encode_stop,
)
from bus.errors import EventError
from tests.fixtures.roadparts import SOURCE, source_of


def test_a_notice_travels() -> None:
    payload = encode_stop("loss diverged", "trainbus stop", 5.5, [SOURCE])
    assert decode_control(payload) == StopNotice("loss diverged", "trainbus stop", 5.5, (SOURCE,))


def test_a_notice_need_not_name_anybody() -> None:
    payload = encode_stop("", "hub", 5.5)
    assert b"sources" not in payload
    assert decode_control(payload).sources == ()


def test_who_asked_is_shown_where_no_reason_was_given() -> None:
    assert StopNotice("too hot", "hub", 1.0).text == "too hot"
    assert StopNotice("", "hub", 1.0).text == "asked by hub"


@given(st.text(), st.text())
def test_any_reason_can_be_sent(reason: str, by: str) -> None:
    notice = decode_control(encode_stop(reason, by, 1.0))
    assert notice.reason.isprintable()
    assert notice.by


def test_a_reason_is_kept_to_one_line_of_bounded_length() -> None:
    assert (
        decode_control(encode_stop("a\n\tb\x1b[2J\ud800", "x", 1.0)).reason == "a b\ufffd[2J\ufffd"
    )
    long = decode_control(encode_stop("ab " * 1000, "x", 1.0)).reason
    assert len(long) == MAX_REASON_CHARACTERS


def test_too_many_names_are_refused_where_they_are_written() -> None:
    names = [source_of(rank=rank) for rank in range(MAX_SOURCES + 1)]
    assert len(decode_control(encode_stop("", "x", 1.0, names[1:])).sources) == MAX_SOURCES
    with pytest.raises(EventError, match="5001 are over 5000"):
        encode_stop("", "x", 1.0, names)


def test_fields_of_a_later_version_are_passed_over() -> None:
    payload = b'{"action":"stop","reason":"r","by":"b","time":1,"grace_seconds":30}'
    assert decode_control(payload) == StopNotice("r", "b", 1.0)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"action":"pause","reason":"r","by":"b","time":1}',
        b'{"action":"stop","reason":"r","by":"b"}',
        b'{"action":"stop","reason":"r","by":"","time":1}',
        b'{"action":"stop","reason":null,"by":"b","time":1}',
        b'{"action":"stop","reason":"\xff","by":"b","time":1}',
        b'{"action":"stop","reason":"\\ud800","by":"b","time":1}',
        b'{"action":"stop","reason":"\\u001b[2J","by":"b","time":1}',
        b'{"action":"stop","reason":"two\\nlines","by":"b","time":1}',
        b'{"action":"stop","reason":"r","by":"\\u202e","time":1}',
        b'{"action":"stop","reason":"r","by":"b","time":-1}',
        b'{"action":"stop","reason":"r","by":"b","time":1e400}',
        b'{"action":"stop","reason":"r","by":"b","time":NaN}',
        b'{"action":"stop","reason":"r","by":"b","time":true}',
        b'{"action":"stop","reason":"r","by":"b","time":1,"sources":"x"}',
        b'{"action":"stop","reason":"r","by":"b","time":1,"sources":["../../x"]}',
        b'{"action":"stop","reason":"r","by":"b","time":1,"sources":["' + b"x" * 5000 + b'"]}',
        b'{"action":"stop","reason":"' + b"r" * 1001 + b'","by":"b","time":1}',
        b'{"action":"stop","reason":"r","by":"' + b"b" * 201 + b'","time":1}',
        b'{"action":"stop","reason":"r","by":"b","time":1}' + b" " * 1024 * 1024,
    ],
)
def test_nonsense_is_refused_with_one_error(payload: bytes) -> None:
    with pytest.raises(EventError):
        decode_control(payload)


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    try:
        decode_control(payload)
    except EventError:
        return
