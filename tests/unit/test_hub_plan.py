"""What a batch means for a model in HUB, and which epochs and checkpoints follow from it."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.errors import PermanentSinkError
from bus.events import Event
from bus.kinds import Blob, Checkpoint, Metrics, Params, Summary, Table
from subscribers.hub.v1.metrics import due_metrics
from subscribers.hub.v1.pending import Pending, Waiting
from subscribers.hub.v1.plan import Plan, plan
from tests.fixtures.events import whole_events
from tests.fixtures.feed import Feed

BLOB = Blob("last.pt", 3, "0" * 64)


def weights(feed: Feed, is_best: bool) -> Event:
    data = Checkpoint(BLOB, epoch=1, is_best=is_best)
    return feed.event("checkpoint", data, "file:///store/x")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(whole_events(), max_size=6))
def test_any_events_make_a_plan_whose_fields_json_can_hold(events: list[Event]) -> None:
    found = plan(events)
    fields = due_metrics({}, found).kept
    assert orjson.dumps(fields)
    again = due_metrics({k: v for k, v in fields.items() if v is not None}, Plan())
    assert again.epochs == {}


@given(st.lists(st.booleans(), max_size=8), st.lists(st.booleans(), max_size=8))
def test_the_latest_best_and_what_came_after_it_wait_and_all_others_are_named(
    first: list[bool], second: list[bool]
) -> None:
    feed = Feed("r1", "digits")
    batches = [[Waiting.of(weights(feed, best)) for best in flags] for flags in (first, second)]
    pending, gone = Pending(), []
    for batch in batches:
        pending, more = Pending.from_json(pending.to_json()).add(batch)
        gone += more
    known = [one for batch in batches for one in batch]
    bests = [one for one in known if one.is_best]
    assert pending.best == (bests[-1] if bests else None)
    after = known[known.index(bests[-1]) + 1 :] if bests else known
    assert pending.last == (after[-1] if after else None)
    assert sorted([*gone, *(one.id for one in pending.all())]) == [one.id for one in known]


def test_an_upload_is_followed_by_a_quarter_of_an_hour() -> None:
    feed = Feed("r1", "digits")
    best, last = Waiting.of(weights(feed, True)), Waiting.of(weights(feed, False))
    pending, _ = Pending().add([best, last])
    assert pending.first == best
    for number in range(40):
        pending = pending.failed(1000.0, 7.0)
        assert pending.next_at == 1000.0 + min(10.0 * 2**number, 900.0)
    assert pending.failed(1000.0, 5000.0).next_at == 6000.0
    pending = pending.done(best, 2000.0)
    assert (pending.first, pending.next_at, pending.failures) == (last, 2900.0, 0)
    assert pending.done(last, 3000.0).all() == []


def test_only_the_last_epochs_and_the_first_are_kept() -> None:
    feed = Feed("r1", "digits")
    found = due_metrics({}, plan([feed.metrics(["loss"], range(100))]))
    assert len(found.epochs) == 100
    assert list(found.kept["epochs"]) == ["0", *map(str, range(92, 100))]
    assert found.kept["epoch"] == 99


def test_what_is_kept_does_not_grow_with_what_a_run_sends() -> None:
    feed = Feed("r1", "digits")
    many = feed.metrics([f"m{number}" for number in range(900)], range(20))
    facts = feed.event("summary", Summary({f"model/{n}": n for n in range(5000)}))
    odd = {"batch": 10**400, "data": "x" * 100_000, "model": ["a"], "epochs": None, "imgsz": True}
    arguments = feed.event("params", Params("General", odd))
    found = plan([arguments, many, facts])
    kept = due_metrics({}, found).kept
    assert list(kept["epochs"]) == ["0", "19"]
    assert len(orjson.dumps(kept)) < 100_000
    assert found.arguments == {"imgsz": True}


def test_facts_wait_for_epoch_0_and_make_none_where_there_was_none() -> None:
    feed = Feed("r1", "digits")
    facts = plan([feed.event("summary", Summary({"model/parameters": 5, "accuracy": 0.5}))])
    kept = {k: v for k, v in due_metrics({}, facts).kept.items() if v is not None}
    assert kept == {"info": {"model/parameters": 5}, "has_new_info": True}
    # A run that was resumed never has an epoch 0 of its own.
    resumed = due_metrics(kept, plan([feed.metrics(["loss"], range(7, 8)), feed.finished()]))
    assert list(resumed.epochs) == [7]
    begun = due_metrics(kept, plan([feed.metrics(["loss"], range(1))]))
    assert begun.epochs == {0: {"loss": 0.5, "model/parameters": 5}}
    assert begun.kept["has_new_info"] is None


def test_the_quality_is_the_last_one_of_any_framework() -> None:
    feed = Feed("r1", "digits")
    for name in ("metrics/mAP50-95(B)", "metrics/mAP50-95(M)", "metrics/mAP_0.5:0.95"):
        assert plan([feed.metrics([name], range(3))]).quality == 2.5
    assert plan([feed.metrics(["rank1/metrics/mAP50-95(B)", "loss"], range(3))]).quality is None


def test_of_a_value_said_twice_under_different_keys_the_last_one_counts() -> None:
    tables = [
        Table(["loss"], [[10.0, 3, 1.0], [30.0, 3, 3.0]]),
        Table(["lr", "loss"], [[20.0, 3, 0.1, 2.0]]),
    ]
    found = plan([Feed("r1", "digits").event("metrics", Metrics(tables))])
    assert found.epochs == {3: {"loss": 3.0, "lr": 0.1}}


@pytest.mark.parametrize("epoch", [2**64, -(2**63) - 1, 10**400])
def test_an_epoch_that_no_json_holds_is_refused_at_once(epoch: int) -> None:
    feed = Feed("r1", "digits")
    row = feed.event("metrics", Metrics([Table(["loss"], [[1.0, epoch, 0.5]])]))
    blob = Blob("last.pt", 1, "0" * 64)
    weights = feed.event("checkpoint", Checkpoint(blob, epoch=epoch), "file:///x")
    for event in (row, weights):
        with pytest.raises(PermanentSinkError, match="an epoch beyond 64 bits"):
            plan([event])
