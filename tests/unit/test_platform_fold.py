"""What a batch of events asks of Platform."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from bus.events import Event
from bus.kinds import (
    Blob,
    Checkpoint,
    Console,
    Git,
    Metrics,
    NonFinite,
    Number,
    Params,
    Phase,
    Plot,
    Summary,
    System,
    Table,
)
from subscribers.hub.platform.calls import Call
from subscribers.hub.platform.fold import Fold
from subscribers.hub.platform.held import Held, to_fields
from tests.fixtures.feed import START, Feed

BLOB = Blob("best.pt", 3, "0" * 64)


def fold(held: Held, *events: Event) -> list[Call]:
    one = Fold(held)
    for event in events:
        one.take(event)
    return one.finish()


def names(calls: list[Call]) -> list[str]:
    return [call.event for call in calls]


def epochs(calls: list[Call]) -> list[int]:
    return [call.data["epoch"] for call in calls if call.event == "epoch_end"]


def row(feed: Feed, epoch: int, **values: Number) -> Event:
    table = Table(list(values), [[START + epoch, epoch, *values.values()]])
    return feed.event("metrics", Metrics([table]))


def params(feed: Feed, section: str = "General", **values: Any) -> Event:
    return feed.event("params", Params(section, values))


def checkpoint(feed: Feed, epoch: int, **fields: Any) -> Event:
    return feed.event("checkpoint", Checkpoint(BLOB, epoch=epoch, **fields), "file:///b")


def test_a_run_begins_when_its_params_are_known() -> None:
    feed, held = Feed("r", "p"), Held()
    git = Git("0123456789abcdef", "main", "https://host/repo")
    config = {"names": {0: "cat", 1: "dog"}, "environment": {"gpuCount": 2, "x": float("inf")}}
    assert fold(held, feed.started(host="h", program="train.py", git=git, config=config)) == []
    values: dict[str, Any] = {"epochs": 3, "device": 0, "time": None, "save": True, "lr0": 0.01}
    (call,) = fold(held, params(feed, **values), params(feed, "opt", name="SGD"))
    assert (call.event, call.key) == ("training_started", "start:1")
    assert call.data == {
        "trainArgs": {
            "epochs": "3",
            "device": "0",
            "time": "None",
            "save": "True",
            "lr0": "0.01",
            "opt/name": "SGD",
        },
        "epochs": 3,
        "device": "0",
        "environment": {
            "hostname": "h",
            "command": "train.py",
            "gitRepository": "https://host/repo",
            "gitBranch": "main",
            "gitCommit": "0123456789ab",
            "gpuCount": 2,
            "x": None,
        },
        "system": {},
    }
    assert held.class_names == ["cat", "dog"]
    assert fold(held, params(feed, late=1)) == []


def test_a_run_without_params_begins_with_the_first_thing_it_says() -> None:
    feed, held = Feed("r", "p"), Held()
    calls = fold(held, feed.started(), row(feed, 0, loss=1.0))
    assert names(calls) == ["training_started"]
    assert epochs(fold(held, row(feed, 1, loss=0.9))) == [0, 1]


def test_a_run_whose_beginning_is_a_dead_letter_is_still_registered() -> None:
    feed, held = Feed("r", "p"), Held()
    feed.started()
    calls = fold(held, row(feed, 0, loss=1.0), feed.finished())
    assert names(calls) == ["training_started", "epoch_end", "training_complete"]


def test_a_run_of_which_only_the_end_is_known_is_registered_too() -> None:
    feed, held = Feed("r", "p"), Held()
    feed.started()
    assert names(fold(held, feed.finished("failed"))) == ["training_started", "training_failed"]


def test_an_epoch_is_told_as_on_the_wire() -> None:
    feed, held = Feed("r", "p"), Held()
    fold(held, feed.started(), params(feed))
    system = feed.event("system", System({"cpu.percent": 12.5}))
    info = {"model/parameters": 2590230, "model/GFLOPs": 6.4, "model/speed_PyTorch(ms)": 3.5}
    summary = feed.event("summary", Summary({**info, "top1": 0.5}))
    first = row(feed, 0, loss=NonFinite.NAN, fitness=0.25)
    calls = fold(held, system, summary, first, row(feed, 1, loss=0.5))
    assert [call.data for call in calls] == [
        {
            "epoch": 0,
            "metrics": {"loss": None},
            "system": {"cpu": 12.5, "gpus": {}},
            "fitness": 0.25,
            "best_fitness": 0.25,
            "modelInfo": {"parameters": 2590230, "gflops": 6.4, "speedMs": 3.5},
        }
    ]
    second = fold(held, checkpoint(feed, 1, fitness=NonFinite.NAN), feed.finished())[1]
    assert "modelInfo" not in second.data
    assert (second.data["fitness"], second.data["best_fitness"]) == (None, 0.25)


def test_several_rows_of_an_epoch_in_a_batch_are_told_once() -> None:
    feed, held = Feed("r", "p"), Held()
    fold(held, feed.started(), row(feed, 0, a=1), row(feed, 1, a=1))
    calls = fold(held, row(feed, 1, b=1), row(feed, 1, c=1), row(feed, 2, a=1))
    assert epochs(calls) == [1]
    assert calls[0].data["metrics"] == {"a": 1, "b": 1, "c": 1}


def test_only_rank_0_speaks_and_all_ranks_end_the_run() -> None:
    held = Held()
    first, second = Feed("r", "p"), Feed("r", "p", rank=1)
    begin = [first.started(ranks=2), params(first), second.started(ranks=2)]
    calls = fold(held, *begin, row(second, 0, **{"rank1/loss": 1.0}), row(second, 1, x=1))
    assert names(calls) == ["training_started"]
    ended = fold(held, row(first, 0, **{"loss": 1.0, "rank1/loss": 2.0}), first.finished())
    assert [call.data["metrics"] for call in ended] == [{"loss": 1.0}]
    assert names(fold(held, second.finished("failed", error="out of memory"))) == [
        "training_failed"
    ]


def test_the_end_carries_the_results() -> None:
    feed, held = Feed("r", "p"), Held()
    start = [feed.started(config={"names": ["a", "b"]}), params(feed)]
    rows = [
        row(feed, n, **{"train/loss": 1.0, "metrics/mAP": 0.5, "fitness": 0.6 - n / 10})
        for n in range(2)
    ]
    (*_, end) = fold(held, *start, *rows, feed.finished())
    assert end.data == {
        "results": {
            "metrics": {"metrics/mAP": 0.5, "fitness": 0.5},
            "bestEpoch": 0,
            "bestFitness": 0.6,
        },
        "classNames": ["a", "b"],
        "plots": [],
    }


def test_a_summary_is_the_result_of_a_run_that_has_one() -> None:
    feed, held = Feed("r", "p"), Held()
    values: dict[str, Number] = {"top1": 0.9, "worst": NonFinite.INFINITY, "fitness": 0.9}
    summary = feed.event("summary", Summary(values))
    (*_, end) = fold(held, feed.started(), row(feed, 0, loss=1.0), summary, feed.finished())
    expected = {"top1": 0.9, "worst": None, "fitness": 0.9}
    assert end.data["results"]["metrics"] == expected


def test_an_end_that_turns_out_otherwise_is_told_again_and_only_then() -> None:
    feed, held = Feed("r", "p"), Held()
    killed = feed.finished("killed")
    (*_, told) = fold(held, feed.started(), params(feed), killed)
    assert told.data == {"error": "the training process was killed"}
    assert fold(held, killed) == []
    assert names(fold(held, feed.finished())) == ["training_complete"]


def test_a_run_that_failed_says_why() -> None:
    feed, held = Feed("r", "p"), Held()
    (*_, told) = fold(held, feed.started(), params(feed), feed.finished("failed", error="CUDA"))
    assert told.data == {"error": "CUDA"}


def test_a_resumed_attempt_is_told_and_ends_the_run_anew() -> None:
    held = Held()
    first, second = Feed("r", "p"), Feed("r", "p", attempt=2)
    fold(held, first.started(), params(first, epochs=3), row(first, 0, a=1), row(first, 1, a=1))
    fold(held, row(first, 2, a=1), first.finished("killed"))
    calls = fold(held, second.started(), params(second, epochs=3), row(second, 1, a=2))
    assert [call.key for call in calls][:1] == ["start:2"]
    assert epochs(calls) == [1]
    late = row(first, 2, a=9)
    calls = fold(held, late, row(second, 2, a=2), second.finished())
    assert [(call.event, call.data.get("metrics")) for call in calls[:1]] == [
        ("epoch_end", {"a": 2})
    ]
    assert names(calls) == ["epoch_end", "training_complete"]


def test_what_is_pending_when_an_attempt_dies_is_sent_before_the_next_begins() -> None:
    held = Held()
    first, second = Feed("r", "p"), Feed("r", "p", attempt=2)
    fold(held, first.started(), params(first), row(first, 0, a=1))
    calls = fold(held, second.started(), params(second))
    assert names(calls) == ["epoch_end", "training_started"]


def test_of_the_checkpoints_of_a_batch_the_best_is_uploaded_else_the_last() -> None:
    feed, held = Feed("r", "p"), Held()
    fold(held, feed.started(), params(feed))
    one = Fold(held)
    made = [checkpoint(feed, n, is_best=n in (1, 3)) for n in range(5)]
    for event in made:
        one.take(event)
    assert [call.checkpoint for call in one.calls] == [made[3], made[4]]
    assert one.left_out == [(feed.source, event.id) for event in made[:3]]


def test_a_final_checkpoint_takes_the_place_of_the_best() -> None:
    feed, held = Feed("r", "p"), Held()
    fold(held, feed.started(), params(feed))
    best, final = checkpoint(feed, 1, is_best=True), checkpoint(feed, 2, is_final=True)
    calls = fold(held, best, final)
    assert [call.checkpoint for call in calls] == [final]


def test_leaving_a_checkpoint_out_does_not_mix_up_epochs() -> None:
    feed, held = Feed("r", "p"), Held()
    fold(held, feed.started(), params(feed), row(feed, 0, a=1))
    events = [
        checkpoint(feed, 0, is_best=True),
        row(feed, 1, a=1),
        checkpoint(feed, 1, is_best=True),
        row(feed, 1, b=2),
        feed.finished(),
    ]
    calls = fold(held, *events)
    assert names(calls) == ["epoch_end", "epoch_end", "checkpoint_saved", "training_complete"]
    assert calls[1].data["metrics"] == {"a": 1, "b": 2}


def test_console_output_is_numbered() -> None:
    feed, held = Feed("r", "p"), Held()
    fold(held, feed.started(), params(feed))
    lines = [feed.event("console", Console(text)) for text in (["a", "b"], [], ["c"])]
    assert [call.data for call in fold(held, *lines)] == [
        {"chunkId": 1, "content": "a\nb", "lineCount": 2},
        {"chunkId": 2, "content": "c", "lineCount": 1},
    ]


def test_the_end_of_training_ends_its_last_epoch() -> None:
    feed, held = Feed("r", "p"), Held()
    fold(held, feed.started(), params(feed), row(feed, 0, a=1))
    assert fold(held, feed.event("phase", Phase("val", "ended"))) == []
    assert epochs(fold(held, feed.event("phase", Phase("train", "ended")))) == [0]


def test_plots_that_are_data_go_with_the_end_and_pictures_do_not() -> None:
    feed, held = Feed("r", "p"), Held()
    curve, picture = Blob("pr.json", 9, "1" * 64), Blob("pr.png", 9, "2" * 64)
    events = [
        feed.event("plot", Plot("pr", blob.name, blob), f"file:///{blob.name}")
        for blob in (curve, picture)
    ]
    (*_, end) = fold(held, feed.started(), params(feed), *events, feed.finished())
    assert [found.blob for found in end.curves] == [curve]


def test_the_options_of_a_run_name_its_place() -> None:
    feed, held = Feed("r", "p"), Held()
    fold(held, feed.started(options={"hub": {"project": "team/x", "name": "y"}}))
    assert (held.project, held.name) == ("team/x", "y")


def whole_run() -> list[Event]:
    feed = Feed("r", "p")
    events = [feed.started(), params(feed, epochs=4)]
    for number in range(4):
        events.append(row(feed, number, loss=1.0 / (number + 1)))
        events.append(checkpoint(feed, number, is_best=number == 2, fitness=number / 4))
        events.append(row(feed, number, acc=0.5 + number / 8))
        events.append(feed.event("system", System({"cpu": number})))
    return [*events, feed.finished()]


WHOLE = whole_run()


@given(st.sets(st.integers(1, len(WHOLE) - 1)))
def test_however_a_run_is_cut_into_batches_platform_learns_the_same(cuts: set[int]) -> None:
    held = Held()
    edges = [0, *sorted(cuts), len(WHOLE)]
    calls: list[Call] = []
    for begin, end in itertools.pairwise(edges):
        calls += fold(held, *WHOLE[begin:end])
        held = held.copy()
    assert epochs(calls) == [0, 1, 2, 3]
    told = [(c.key, c.data) for c in calls if c.event != "checkpoint_saved"]
    assert told == TOLD


TOLD = [(c.key, c.data) for c in fold(Held(), *WHOLE) if c.event != "checkpoint_saved"]


def test_what_no_number_of_an_epoch_can_be_is_left_out_and_the_rest_is_not() -> None:
    held, feed = Held(), Feed("r1", "digits")
    first = params(feed, epochs=10**30, lr=0.1)
    calls = fold(held, feed.started(), first, checkpoint(feed, 10**30), row(feed, 0, loss=1.0))
    assert names(calls) == ["training_started", "checkpoint_saved"]
    assert "epochs" not in calls[0].data
    assert orjson.loads(orjson.dumps(to_fields(held)))["epochs"]["pending"]["number"] == 0


def test_what_comes_late_for_an_epoch_of_the_same_batch_takes_nothing_from_it() -> None:
    """As when a batch is large, after an outage, and evaluations are logged an epoch late."""
    feed = Feed("r1", "digits")
    rows = [row(feed, 0, loss=3.0), row(feed, 1, loss=2.0), row(feed, 2, loss=1.0)]
    late = [row(feed, 0, accuracy=0.1, fitness=0.1), row(feed, 1, accuracy=0.2, fitness=0.2)]
    calls = fold(Held(), feed.started(), *rows, *late, feed.finished())
    sent = {c.data["epoch"]: c.data for c in calls if c.event == "epoch_end"}
    assert epochs(calls) == [0, 1, 2]
    assert sent[0]["metrics"] == {"loss": 3.0, "accuracy": 0.1}
    assert (sent[1]["metrics"], sent[1]["fitness"]) == ({"loss": 2.0, "accuracy": 0.2}, 0.2)
