"""What a batch means for a model in HUB, and which epochs and checkpoints follow from it."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from bus.events import Event
from bus.kinds import Blob, Checkpoint, Summary
from subscribers.hub.v1.metrics import due_metrics
from subscribers.hub.v1.plan import Plan, choose_uploads, plan
from tests.fixtures.events import whole_events
from tests.fixtures.feed import Feed

BLOB = Blob("last.pt", 3, "0" * 64)


def weights(feed: Feed, flags: str) -> Event:
    """A checkpoint: ``b`` for best, ``f`` for final."""
    data = Checkpoint(BLOB, epoch=1, is_best="b" in flags, is_final="f" in flags)
    return feed.event("checkpoint", data, "file:///store/x")


@given(st.lists(whole_events(), max_size=6))
def test_any_events_make_a_plan_whose_fields_json_can_hold(events: list[Event]) -> None:
    found = plan(events)
    fields = due_metrics({}, found).kept
    assert orjson.dumps(fields)
    again = due_metrics({k: v for k, v in fields.items() if v is not None}, Plan())
    assert again.epochs == {}


@given(st.lists(st.sampled_from(["", "b", "bf", "f"]), max_size=8))
def test_the_best_and_the_final_are_never_left_behind(flags: list[str]) -> None:
    feed = Feed("r1", "digits")
    events = [weights(feed, one) for one in flags]
    now, waiting, skipped = choose_uploads(events)
    found = [one for one in (now, waiting) if one is not None] + skipped
    assert sorted(one.id for one in found) == [one.id for one in events]
    if events:
        wanted = "f" if any("f" in one for one in flags) else "b" if "b" in flags else ""
        assert now is not None
        last = max(number for number, one in enumerate(flags) if wanted in one)
        assert now is events[last]
    assert waiting is None or (waiting is events[-1] and waiting is not now)


def test_only_the_last_epochs_and_the_first_are_kept() -> None:
    feed = Feed("r1", "digits")
    found = due_metrics({}, plan([feed.metrics(["loss"], range(100))]))
    assert len(found.epochs) == 100
    assert list(found.kept["epochs"]) == ["0", *map(str, range(92, 100))]
    assert found.kept["epoch"] == 99


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
