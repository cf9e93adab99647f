"""When an epoch of Platform is complete, and what it holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from subscribers.hub.platform.epochs import Epoch, Epochs
from subscribers.hub.platform.rows import Row
from subscribers.hub.platform.values import Value


def row(step: int, named: int | None = None, fitness: Value = None, **metrics: Value) -> Row:
    return Row(named, step, dict(metrics), fitness)


def sent(epochs: list[Epoch]) -> list[tuple[int, dict[str, Value]]]:
    return [(epoch.number, epoch.metrics) for epoch in epochs]


def test_the_first_epoch_is_sent_when_the_second_begins() -> None:
    epochs = Epochs()
    assert epochs.row(row(0, loss=1.0)) == []
    assert epochs.row(row(0, acc=0.5)) == []
    assert sent(epochs.row(row(1, loss=0.9))) == [(0, {"loss": 1.0, "acc": 0.5})]


def test_a_later_epoch_is_sent_as_soon_as_it_has_what_the_one_before_had() -> None:
    epochs = Epochs()
    for values in (row(0, loss=1.0), row(0, acc=0.5), row(1, loss=0.9)):
        epochs.row(values)
    assert sent(epochs.row(row(1, acc=0.6))) == [(1, {"loss": 0.9, "acc": 0.6})]
    assert epochs.end() == []


def test_an_epoch_waits_for_its_fitness_where_the_one_before_had_one() -> None:
    epochs = Epochs()
    epochs.row(row(0, loss=1.0, fitness=0.1))
    assert sent(epochs.row(row(1, loss=0.9))) == [(0, {"loss": 1.0})]
    (done,) = epochs.checkpoint(1, 0.2)
    assert (done.number, done.fitness) == (1, 0.2)
    assert (epochs.best_fitness, epochs.best_epoch) == (0.2, 1)


def test_the_last_epoch_is_never_lost() -> None:
    epochs = Epochs()
    epochs.row(row(7, loss=1.0))
    assert sent(epochs.end()) == [(7, {"loss": 1.0})]
    assert epochs.end() == []


def test_weights_are_saved_before_the_evaluation_is_logged_and_end_only_earlier_epochs() -> None:
    epochs = Epochs()
    epochs.row(row(3, loss=1.0))
    assert epochs.checkpoint(3, None) == []
    epochs.row(row(3, acc=0.5))
    assert sent(epochs.checkpoint(4, None)) == [(3, {"loss": 1.0, "acc": 0.5})]


def test_what_comes_late_for_the_last_epoch_sends_it_again_whole() -> None:
    epochs = Epochs()
    epochs.row(row(0, loss=1.0))
    epochs.close()
    assert sent(epochs.row(row(0, acc=0.5))) == [(0, {"loss": 1.0, "acc": 0.5})]
    # Nothing new: nothing is sent.
    assert epochs.row(row(0, acc=0.5)) == []


def test_what_comes_late_is_expected_of_the_next_epoch() -> None:
    epochs = Epochs()
    epochs.row(row(0, loss=1.0))
    epochs.close()
    epochs.row(row(0, acc=0.5))
    assert epochs.row(row(1, loss=0.9)) == []
    assert sent(epochs.row(row(1, acc=0.6))) == [(1, {"loss": 0.9, "acc": 0.6})]


def test_a_metric_of_every_fifth_epoch_holds_the_next_one_up_and_no_other() -> None:
    epochs = Epochs()
    numbers = [done.number for n in range(4) for done in epochs.row(row(n, loss=1.0))]
    assert numbers == [0, 1, 2, 3]
    assert [done.number for done in epochs.row(row(4, loss=1.0))] == [4]
    assert sent(epochs.row(row(4, map=0.5))) == [(4, {"loss": 1.0, "map": 0.5})]
    assert epochs.row(row(5, loss=1.0)) == []
    assert [done.number for done in epochs.row(row(6, loss=1.0))] == [5, 6]


def test_what_comes_late_for_an_older_epoch_is_sent_for_itself() -> None:
    epochs = Epochs()
    for number in range(3):
        epochs.row(row(number, loss=1.0))
    assert sent(epochs.row(row(0, acc=0.5))) == [(0, {"acc": 0.5})]


def test_steps_count_as_epochs_until_an_epoch_is_named() -> None:
    epochs = Epochs()
    epochs.row(row(100, loss=1.0))
    assert epochs.row(row(100, named=0, acc=0.5)) == []
    epochs.row(row(101, loss=0.9))
    epochs.row(row(102, loss=0.8))
    done = epochs.row(row(200, named=1, acc=0.6))
    assert sent(done) == [
        (0, {"loss": 1.0, "acc": 0.5}),
        (1, {"loss": 0.8, "acc": 0.6}),
    ]


def test_values_after_the_last_named_epoch_are_not_lost() -> None:
    epochs = Epochs()
    epochs.row(row(1, named=0, acc=0.5))
    epochs.row(row(2, loss=0.9))
    assert sent(epochs.end()) == [(0, {"acc": 0.5, "loss": 0.9})]


def test_a_new_attempt_trains_epochs_anew() -> None:
    epochs = Epochs()
    for number in range(3):
        epochs.row(row(number, loss=1.0, acc=0.5))
    assert sent(epochs.restart()) == []
    assert sent(epochs.row(row(1, loss=0.7, acc=0.6))) == [(1, {"loss": 0.7, "acc": 0.6})]


def test_late_rows_of_an_earlier_attempt_do_not_undo_what_the_later_one_trained() -> None:
    epochs = Epochs()
    epochs.row(row(5, loss=1.0))
    epochs.restart()
    assert sent(epochs.late_row(row(6, loss=0.9))) == [(6, {"loss": 0.9})]
    epochs.row(row(5, loss=0.8))
    assert epochs.late_row(row(6, loss=0.9)) == []
    assert sent(epochs.late_row(row(4, loss=1.1))) == [(4, {"loss": 1.1})]


def test_the_best_is_what_the_training_calls_so() -> None:
    epochs = Epochs()
    epochs.row(Row(None, 0, {}, 0.3, 0.3))
    epochs.row(Row(None, 1, {}, 0.2, 0.3))
    assert (epochs.best_fitness, epochs.best_epoch) == (0.3, 0)


_names = st.sampled_from(["loss", "acc", "lr"])
_rows = st.lists(
    st.tuples(st.integers(0, 4), st.dictionaries(_names, st.integers(0, 9), min_size=1)),
    max_size=25,
)


@given(_rows)
def test_no_value_is_lost_in_whatever_order_rows_come(given_rows: list[tuple[int, dict]]) -> None:  # type: ignore[type-arg]  # Hypothesis draws plain dicts
    epochs = Epochs()
    done = [one for step, values in given_rows for one in epochs.row(row(step, **values))]
    done += epochs.end()
    found: dict[int, dict[str, Value]] = {}
    wanted: dict[int, dict[str, Value]] = {}
    for epoch in done:
        found.setdefault(epoch.number, {}).update(epoch.metrics)
    for step, values in given_rows:
        wanted.setdefault(step, {}).update(values)
    assert found == wanted


@given(_rows)
def test_ordered_rows_send_no_epoch_more_often_than_there_are_rows_of_it(
    given_rows: list[tuple[int, dict]],  # type: ignore[type-arg]  # Hypothesis draws plain dicts
) -> None:
    epochs = Epochs()
    ordered = sorted(given_rows, key=lambda pair: pair[0])
    done = [one for step, values in ordered for one in epochs.row(row(step, **values))]
    numbers = [epoch.number for epoch in [*done, *epochs.end()]]
    assert numbers == sorted(numbers)
    for number in set(numbers):
        assert numbers.count(number) <= sum(step == number for step, _ in ordered)
