"""Topics: names become levels that every broker takes, and come back unchanged."""

from __future__ import annotations

import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import EventError
from bus.kinds import KINDS
from bus.topics import SLOTS, Topics, decode_level, encode_level, shard_of, slot_of
from tests.fixtures.events import names

TOPICS = Topics()


@given(names)
def test_any_name_comes_back_from_its_level(name: str) -> None:
    assert decode_level(encode_level(name)) == name


@given(names)
def test_a_level_holds_only_what_every_broker_takes(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]+", encode_level(name))


@given(names, names)
def test_two_names_never_share_a_level(first: str, second: str) -> None:
    assert (encode_level(first) == encode_level(second)) == (first == second)


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("node-0", "node-0"),
        ("a_b", "a_5Fb"),
        ("v1.2", "v1_2E2"),
        ("+", "_2B"),
        ("#", "_23"),
        ("a/b", "a_2Fb"),
        ("$SYS", "_24SYS"),
        ("Zürich", "Z_C3_BCrich"),
        (" ", "_20"),
        ("\x00", "_00"),
    ],
)
def test_other_characters_are_written_in_hex(name: str, level: str) -> None:
    assert encode_level(name) == level


@pytest.mark.parametrize("name", ["", "\ud800", "x" * 1025, "." * 342])
def test_a_name_that_makes_no_level_is_refused_and_named(name: str) -> None:
    with pytest.raises(EventError) as caught:
        encode_level(name, "project")
    assert caught.value.field == "project"


@pytest.mark.parametrize(
    "level", ["", "+", "#", "a+", "a/b", "a.b", "_", "_5", "_5f", "_ZZ", "a b", "é", "_FF", "a\n"]
)
def test_a_level_that_is_none_is_refused(level: str) -> None:
    with pytest.raises(EventError) as caught:
        decode_level(level)
    assert caught.value.field == "topic"


@given(names, names, st.sampled_from(sorted(KINDS)))
def test_the_topic_of_an_event_says_whose_it_is(project: str, run: str, kind: str) -> None:
    read = TOPICS.parse_event(TOPICS.event(project, run, kind))
    assert (read.project, read.run, read.kind, read.group) == (project, run, kind, None)
    assert read.slot == slot_of(run)


@given(names, names, names)
def test_the_topic_of_a_replay_says_for_whom_it_is(group: str, project: str, run: str) -> None:
    read = TOPICS.parse_event(TOPICS.replay(group, project, run, "metrics"))
    assert (read.group, read.project, read.run) == (group, project, run)


@given(names, st.integers(1, SLOTS), st.sampled_from(["events", "replay"]))
def test_exactly_one_shard_is_subscribed_to_a_run(run: str, shards: int, place: str) -> None:
    is_live = place == "events"
    topic = TOPICS.event("p", run, "tags") if is_live else TOPICS.replay("g", "p", run, "tags")
    owners = [
        shard
        for shard in range(shards)
        if any(matches(one, topic) for one in TOPICS.shard_filters("g", shard, shards))
    ]
    assert owners == [shard_of(slot_of(run), shards)]


def matches(topic_filter: str, topic: str) -> bool:
    return bool(re.fullmatch(topic_filter.replace("+", "[^/]+"), topic))


def test_a_replay_reaches_its_own_group_only() -> None:
    topic = TOPICS.replay("mlflow", "p", "r", "tags")
    filters = [f for shard in range(8) for f in TOPICS.shard_filters("clearml", shard, 8)]
    assert not any(matches(one, topic) for one in filters)


def test_the_slot_is_the_crc_of_the_run() -> None:
    assert slot_of("r1") == zlib.crc32(b"r1") % 64
    assert TOPICS.event("digits", "r1", "run_started") == (
        f"trainbus/v1/events/{slot_of('r1'):02x}/digits/r1/run_started"
    )


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "trainbus/v1",
        "trainbus/v2/events/17/digits/r1/metrics",
        "trainbus/v1/events/digits/r1/metrics",
        "trainbus/v1/events/00/digits/r1/metrics",
        "trainbus/v1/events/xx/digits/r1/metrics",
        "trainbus/v1/events/+/digits/r1/metrics",
        f"trainbus/v1/events/{slot_of('r1'):02x}/+/r1/metrics",
        f"trainbus/v1/events/{slot_of('r1'):02x}/digits/r1/#",
        f"trainbus/v1/events/{slot_of('r1'):02x}/digits/r1/Metrics",
        f"trainbus/v1/events/{slot_of('r1'):02x}/digits/r1/metrics/more",
        f"trainbus/v1/events/{slot_of('r1'):02x}/digits//metrics",
        f"trainbus/v1/replay/{slot_of('r1'):02x}/digits/r1/metrics",
        "trainbus/v1/stored/digits/r1",
    ],
)
def test_a_topic_that_is_no_events_is_refused(topic: str) -> None:
    with pytest.raises(EventError) as caught:
        TOPICS.parse_event(topic)
    assert caught.value.field == "topic"


@pytest.mark.parametrize("prefix", ["", "/", "a/", "a//b", "a/+", "#", "a b", "é", "v1.0", "a\n"])
def test_a_prefix_with_other_characters_is_refused(prefix: str) -> None:
    with pytest.raises(EventError) as caught:
        Topics(prefix)
    assert caught.value.field == "prefix"


@pytest.mark.parametrize("kind", ["", "Metrics", "a/b", "+", "metrics_"])
def test_a_word_that_is_no_kind_makes_no_topic(kind: str) -> None:
    with pytest.raises(EventError):
        TOPICS.event("p", "r", kind)


@given(names, names)
def test_the_other_topics_are_taken_apart_again(first: str, second: str) -> None:
    for topic in (
        TOPICS.stored(first, second),
        TOPICS.control(first, second),
        TOPICS.member(first, second),
        TOPICS.node(first, second),
    ):
        assert TOPICS.parse_tail(topic) == [first, second]
    assert TOPICS.parse_tail(TOPICS.dead("g", first, second)) == ["g", first, second]


def test_the_filters_match_what_they_are_for() -> None:
    assert matches(TOPICS.stored_filter, TOPICS.stored("a/b", "c"))
    assert matches(TOPICS.nodes_filter, TOPICS.node("a.b", "c"))
    assert matches(TOPICS.dead_filter, TOPICS.dead("a", "b", "c"))
    assert matches(TOPICS.members_filter("mlflow"), TOPICS.member("mlflow", "m1"))
    assert not matches(TOPICS.members_filter("mlflow"), TOPICS.member("log", "m1"))


def test_sessions_of_a_group_have_names_of_their_own() -> None:
    sessions = {Topics(p).session(g, s) for p in ("a", "b") for g in ("g", "h") for s in (0, 1)}
    assert len(sessions) == 8
    assert TOPICS.session("mlflow", 3) == "trainbus-v1-mlflow-3"
