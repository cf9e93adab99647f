"""Dead letters on the bus."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.deadletters import decode_letter, encode_letter
from bus.errors import EventError
from bus.eventlog.records import DeadLetter
from bus.topics import Topics
from tests.fixtures.roadparts import SOURCE

TOPICS = Topics()


def letter(raw: bytes = b"{}", run: str = "r.1") -> DeadLetter:
    return DeadLetter("mlflow", SOURCE, 5, run, "my project", "permanent", "no", 3, 12.5, raw)


@given(st.binary(max_size=50), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_letter_arrives_as_it_was_sent_whatever_bytes_it_holds(raw: bytes, run: str) -> None:
    sent = letter(raw, run[:20])
    topic = TOPICS.dead(sent.group, sent.project, sent.run)
    assert decode_letter(TOPICS, topic, encode_letter(sent)) == sent


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"{}",
        b'{"source":"\xff"}',
        b'{"source":"s","id":1,"reason":"r","error":"e","attempts":1,"time":1,"event":"%%%"}',
        b'{"source":"s","id":-1,"reason":"r","error":"e","attempts":1,"time":1,"event":""}',
        b'{"source":"s","id":1,"reason":"r","error":"e","attempts":1e99,"time":1,"event":""}',
        b"[" * 100_000,
    ],
)
def test_a_malformed_letter_is_refused(payload: bytes) -> None:
    with pytest.raises(EventError):
        decode_letter(TOPICS, TOPICS.dead("g", "p", "r"), payload)


@pytest.mark.parametrize("topic", ["trainbus/v1/dead/g/p", "trainbus/v1/dead/g/p/r/x", "other/x"])
def test_a_letter_on_another_topic_is_refused(topic: str) -> None:
    with pytest.raises(EventError):
        decode_letter(TOPICS, topic, encode_letter(letter()))
