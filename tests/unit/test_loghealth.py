"""What a shipper knows of the log group."""

from __future__ import annotations

from bus.group.heartbeat import Heartbeat
from publishers.shipper.loghealth import LogHealth, ShardNews


def beat(member: str = "m", **fields: object) -> Heartbeat:
    return Heartbeat(member, 8, **fields)  # type: ignore[arg-type]  # checked by the callee


def test_a_group_is_alive_while_any_member_is_heard() -> None:
    health = LogHealth(0.0)
    assert not health.is_alive(0.0)
    health.heard(beat("a"), 1.0)
    health.heard(beat("b"), 4.0)
    assert health.is_alive(8.9)
    assert not health.is_alive(9.1)


def test_a_member_that_has_left_does_not_count() -> None:
    health = LogHealth(0.0)
    health.heard(beat("a"), 1.0)
    assert health.heard(beat("a", has_left=True, owned=[1], idle=[1]), 2.0) == []
    assert not health.is_alive(2.0)


def test_a_session_is_new_once() -> None:
    health = LogHealth(0.0)
    first = health.heard(beat(owned=[0, 1], sessions={"0": "x"}), 1.0)
    assert first == [ShardNews(0, 8, is_new_session=True, is_idle=False)]
    assert health.heard(beat(owned=[0, 1], sessions={"0": "x"}), 2.0) == []
    again = health.heard(beat(owned=[0], sessions={"0": "y"}), 3.0)
    assert again == [ShardNews(0, 8, is_new_session=True, is_idle=False)]


def test_an_idle_shard_is_news_each_time_and_only_from_its_owner() -> None:
    health = LogHealth(0.0)
    for now in (1.0, 2.0):
        news = health.heard(beat(owned=[2], idle=[2, 3]), now)
        assert news == [ShardNews(2, 8, is_new_session=False, is_idle=True)]


def test_a_session_whose_beginning_nobody_knows_is_not_new() -> None:
    assert LogHealth(0.0).heard(beat(owned=[0]), 1.0) == []


def test_the_warning_comes_once_after_a_minute_of_silence() -> None:
    health = LogHealth(100.0)
    assert not health.should_warn(159.0)
    assert health.should_warn(160.0)
    assert not health.should_warn(500.0)
    health.heard(beat(), 500.0)
    assert not health.should_warn(559.0)
    assert health.should_warn(560.0)


def test_a_minute_is_counted_from_the_last_word_also_when_the_worker_said_goodbye() -> None:
    health = LogHealth(0.0)
    health.heard(beat(), 1000.0)
    health.heard(beat(has_left=True), 1001.0)
    assert not health.should_warn(1002.0)
    assert health.should_warn(1060.0)


def test_members_of_long_ago_are_forgotten() -> None:
    health = LogHealth(0.0)
    for number in range(1000):
        health.heard(beat(f"m{number}"), number * 1.0)
    assert len(health._heard_at) < 10
