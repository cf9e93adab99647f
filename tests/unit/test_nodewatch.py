from __future__ import annotations

from subscribers.log.nodewatch import NodeWatch, OpenSource

GRACE = 60.0


def _watch(now: float = 0.0, loss: int = 0) -> NodeWatch:
    watch = NodeWatch(GRACE)
    watch.learn(OpenSource("a", "digits", "r", "mlp", now, loss, now))
    return watch


def _due(watch: NodeWatch, now: float) -> list[str]:
    return [one.source for one in watch.due(now)]


def test_a_silent_source_is_due_after_the_grace_period() -> None:
    watch = _watch()
    assert _due(watch, GRACE - 1) == []
    assert _due(watch, GRACE) == ["a"]


def test_a_heartbeat_and_a_stored_event_are_signs_of_life() -> None:
    watch = _watch()
    watch.heard(["a", "unknown"], 50.0)
    assert _due(watch, 100.0) == []
    watch.stored("a", 100.0)
    assert _due(watch, 159.0) == []
    assert _due(watch, 160.0) == ["a"]


def test_a_word_is_said_once() -> None:
    watch = _watch()
    watch.spoken("a", 1, GRACE)
    assert _due(watch, 1000.0) == []


def test_a_lost_source_that_is_heard_again_is_due_for_its_return() -> None:
    watch = _watch()
    watch.spoken("a", 1, GRACE)
    watch.heard(["a"], GRACE + 5)
    assert _due(watch, GRACE + 5) == ["a"]
    watch.spoken("a", 2, GRACE + 6)
    assert _due(watch, GRACE + 7) == []
    assert _due(watch, 2 * GRACE + 5) == ["a"]


def test_what_the_broker_still_held_of_a_lost_node_is_no_return() -> None:
    watch = _watch()
    watch.spoken("a", 1, GRACE)
    watch.stored("a", GRACE + 5)
    assert _due(watch, GRACE + 5) == []


def test_a_source_that_has_ended_is_not_watched() -> None:
    watch = _watch()
    watch.finished("a")
    assert _due(watch, 1000.0) == []
    assert len(watch) == 0


def test_sources_of_other_members_are_forgotten() -> None:
    watch = _watch()
    watch.keep(lambda run: run != "r")
    assert "a" not in watch


def test_a_source_known_to_be_lost_waits_for_its_return() -> None:
    watch = _watch(loss=3)
    assert _due(watch, 10 * GRACE) == []
    watch.heard(["a"], 10 * GRACE)
    assert [one.loss for one in watch.due(10 * GRACE)] == [3]
