"""How a plan is cut into log_batch calls."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from bus.events import Event
from bus.kinds import Metrics, Number, Table
from subscribers.mlflow.batches import NonFiniteNotes, chunks_of, final_requests
from subscribers.mlflow.points import Point, points_of


def metrics(rows: int, first: int = 0, value: Number = 1.0) -> Event:
    table = Table(["a", "b"], [[1.0, first + row, value, 2.0] for row in range(rows)])
    source = "/runs/r/0/1-0-0000000000000000/n"
    return Event("metrics", source, 1, "r", "p", "n", 1.0, Metrics([table]))


def pairs(prefix: str, count: int, size: int = 1) -> dict[str, str]:
    return {f"{prefix}{number}": "v" * size for number in range(count)}


@given(st.lists(st.integers(0, 700), max_size=6))
def test_chunks_are_full_across_events_and_in_order(sizes: list[int]) -> None:
    events = [metrics(size, index * 1000) for index, size in enumerate(sizes)]
    chunks = list(chunks_of(events, NonFiniteNotes({})))
    assert [len(chunk) for chunk in chunks[:-1]] == [1000] * (len(chunks) - 1)
    assert all(chunks)
    assert [point for chunk in chunks for point in chunk] == [
        point for event in events for point in points_of(event)
    ]


counts = st.integers(0, 250)


@given(st.integers(0, 1000), counts, counts, counts, st.sampled_from([1, 6000]))
def test_the_final_calls_keep_the_limits_and_end_with_the_marks(
    points: int, params: int, tags: int, marks: int, size: int
) -> None:
    last = [Point("a", 1, step, 1.0) for step in range(points)]
    all_pairs = (pairs("p", params, size), pairs("t", tags), pairs("m", marks))
    requests = list(final_requests(last, *all_pairs))
    for request in requests:
        assert len(request.params) <= 100
        assert len(request.tags) <= 100
        assert len(request.points) + len(request.params) + len(request.tags) <= 1000
        assert len(json.dumps(request.params)) < 600_000
        assert request.points or request.params or request.tags
    assert [point for request in requests for point in request.points] == last
    assert [pair for request in requests for pair in request.params] == list(all_pairs[0].items())
    assert [pair for request in requests for pair in request.tags] == [
        *all_pairs[1].items(),
        *all_pairs[2].items(),
    ]
    marked = [
        number
        for number, request in enumerate(requests)
        if any(key.startswith("m") for key, _ in request.tags)
    ]
    if marked:
        assert not any(request.points or request.params for request in requests[marked[0] + 1 :])


def test_a_usual_batch_is_one_call() -> None:
    last = [Point("a", 1, step, 1.0) for step in range(990)]
    assert len(list(final_requests(last, pairs("p", 5), {}, pairs("m", 2)))) == 1
    full = [Point("a", 1, step, 1.0) for step in range(1000)]
    assert len(list(final_requests(full, {}, {}, pairs("m", 2)))) == 2
    assert list(final_requests([], {}, {}, {})) == []


def test_infinities_become_nan_and_are_noted_over_batches_and_repetitions() -> None:
    tags: dict[str, str] = {}
    for event in [
        metrics(3, 5, math.inf),
        metrics(3, 5, math.inf),
        metrics(2, 1, -math.inf),
        metrics(3, 5, math.inf),
        metrics(1, 99),
    ]:
        notes = NonFiniteNotes(tags)
        for chunk in chunks_of([event], notes):
            assert not any(math.isinf(point.value) for point in chunk)
        tags |= notes.tags
    assert tags == {"trainbus.nonfinite.a": "-Infinity and Infinity, logged as NaN; steps 1 to 7"}
