"""The receipt: every published event is somewhere, and what is not is named."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from bus.idranges import IdRanges
from bus.receipt import Receipt, SinkFacts, SourceFacts, make_receipt
from bus.sinks import Marks, SinkContents

A, B = "/runs/r/0/1-1-0123456789abcdef/n", "/runs/r/1/1-1-0123456789abcdef/n"
ALL = frozenset({"metrics", "console"})


def ids(text: str) -> IdRanges:
    return IdRanges.parse(text)


def contents(
    applied: str, dead: str = "", superseded: str = "", points: int | None = None
) -> SinkContents:
    marks = Marks({A: ids(applied)}, {A: ids(dead)} if dead else {}, {A: ids(superseded)})
    return SinkContents(marks, points, "http://tracker/r")


def receipt(sources: list[SourceFacts], sinks: list[SinkFacts]) -> Receipt:
    return make_receipt(Receipt("r", "p", "n", "completed"), sources, sinks)


def test_when_all_is_where_it_should_be_the_receipt_is_complete() -> None:
    source = SourceFacts(A, ids("1-10"), ids(""), {"metrics": ids("1-10")}, 10)
    sink = SinkFacts("mlflow", ALL, contents("1-10", points=7), points_expected=7)
    made = receipt([source], [sink])
    assert made.is_complete
    assert (made.published, made.stored, made.missing) == (10, 10, 0)
    assert made.sinks[0].delivered == 10


def test_the_json_form_begins_with_what_people_look_for() -> None:
    source = SourceFacts(A, ids("1-10"), last_id=10)
    made = receipt([source], [SinkFacts("mlflow", ALL, contents("1-10", dead="3"))]).to_dict()
    assert list(made)[:4] == ["run", "published", "stored", "sinks"]
    assert (made["run"], made["published"], made["stored"]) == ("r", 10, 10)
    assert list(made["sinks"]["mlflow"].items())[:3] == [
        ("delivered", 9),
        ("dead", 1),
        ("missing", 0),
    ]
    orjson.dumps(made)


def test_what_run_finished_announced_and_the_log_lacks_is_missing() -> None:
    made = receipt([SourceFacts(A, ids("1-7,9"), last_id=12)], [])
    assert (made.published, made.stored, made.missing) == (12, 8, 4)
    assert [(gap.where, str(gap.ids), gap.is_lost) for gap in made.gaps] == [
        ("log", "8,10-12", False)
    ]
    assert not made.is_complete


def test_without_run_finished_the_highest_id_seen_counts() -> None:
    made = receipt([SourceFacts(A, ids("2-5"))], [])
    assert (made.published, made.stored, made.missing) == (5, 4, 1)


def test_a_sink_ahead_of_the_log_shows_what_the_log_lacks() -> None:
    sinks = [SinkFacts("mlflow", ALL, contents("1-8"))]
    made = receipt([SourceFacts(A, ids("1-5"))], sinks)
    assert (made.published, made.stored, made.missing) == (8, 5, 3)
    assert made.sinks[0].delivered == 8
    made = receipt([], sinks)
    assert (made.published, made.stored, made.missing) == (8, 0, 8)


def test_lost_events_are_a_gap_everywhere_even_where_they_are_marked_as_applied() -> None:
    source = SourceFacts(A, ids("1-10"), ids("4-5"), last_id=10)
    made = receipt([source], [SinkFacts("mlflow", ALL, contents("1-10"))])
    assert (made.stored, made.lost, made.missing) == (8, 2, 0)
    assert (made.sinks[0].delivered, made.sinks[0].lost) == (8, 2)
    assert [(g.where, str(g.ids), g.is_lost) for g in made.all_gaps()] == [
        ("log", "4-5", True),
        ("mlflow", "4-5", True),
    ]
    assert not made.is_complete


def test_kinds_a_sink_has_no_use_for_are_not_missing_there() -> None:
    kinds = {"metrics": ids("1-8"), "console": ids("9-10")}
    source = SourceFacts(A, ids("1-10"), kinds=kinds, last_id=10)
    made = receipt([source], [SinkFacts("mlflow", frozenset({"metrics"}), contents("1-8"))])
    sink = made.sinks[0]
    assert (sink.delivered, sink.not_applicable, sink.missing) == (8, 2, 0)
    assert made.is_complete


def test_a_run_that_is_not_meant_for_a_sink_is_not_missing_there() -> None:
    made = receipt([SourceFacts(A, ids("1-10"))], [SinkFacts("hub", ALL, is_wanted=False)])
    assert (made.sinks[0].not_applicable, made.sinks[0].missing) == (10, 0)
    assert made.is_complete


def test_dead_and_superseded_events_are_accounted_for_and_no_gap() -> None:
    source = SourceFacts(A, ids("1-10"))
    made = receipt([source], [SinkFacts("hub", ALL, contents("1-10", "2-3", "7"))])
    sink = made.sinks[0]
    assert (sink.delivered, sink.dead, sink.superseded, sink.missing) == (7, 2, 1, 0)
    assert made.is_complete


def test_a_sink_without_the_run_misses_all_of_it() -> None:
    made = receipt([SourceFacts(A, ids("1-3")), SourceFacts(B, ids("1"))], [SinkFacts("x", ALL)])
    assert made.sinks[0].missing == 4
    assert [(g.source, str(g.ids)) for g in made.all_gaps()] == [(A, "1-3"), (B, "1")]


def test_a_sink_that_cannot_be_asked_makes_the_receipt_incomplete() -> None:
    made = receipt([SourceFacts(A, ids("1-3"))], [SinkFacts("x", ALL, error="it is down")])
    assert not made.is_complete
    assert made.to_dict()["sinks"] == {"x": {"error": "it is down"}}


def test_missing_points_are_a_gap_and_extra_points_are_not() -> None:
    source = SourceFacts(A, ids("1-3"))
    fewer = SinkFacts("x", ALL, contents("1-3", points=5), points_expected=6)
    more = SinkFacts("y", ALL, contents("1-3", points=7), points_expected=6)
    made = receipt([source], [fewer, more])
    assert [(s.points_missing, s.is_complete) for s in made.sinks] == [(1, False), (0, True)]


def test_points_that_cannot_be_counted_are_not_missing() -> None:
    sink = SinkFacts("x", ALL, contents("1-3"), points_expected=6)
    assert receipt([SourceFacts(A, ids("1-3"))], [sink]).is_complete


some_ids = st.sets(st.integers(1, 30)).map(lambda found: IdRanges((n, n) for n in found))


@given(some_ids, some_ids, some_ids, some_ids, some_ids, some_ids, st.integers(0, 35))
def test_the_parts_always_add_up(
    held: IdRanges,
    lost: IdRanges,
    console: IdRanges,
    applied: IdRanges,
    dead: IdRanges,
    superseded: IdRanges,
    last_id: int,
) -> None:
    stored = held.copy()
    stored.update(lost)
    source = SourceFacts(A, stored, lost, {"console": console}, last_id)
    marks = Marks({A: applied}, {A: dead}, {A: superseded})
    sink = SinkFacts("x", frozenset({"metrics"}), SinkContents(marks))
    made = receipt([source], [sink])
    assert made.published == made.stored + made.lost + made.missing
    part = made.sinks[0]
    assert made.published == (
        part.delivered
        + part.dead
        + part.superseded
        + part.not_applicable
        + part.lost
        + part.missing
    )
    assert made.is_complete == (not made.all_gaps())
