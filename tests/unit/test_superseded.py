"""Which checkpoints later ones take the place of."""

from __future__ import annotations

from typing import Any

from bus.feed import Item
from bus.superseded import latest, superseded
from tests.fixtures.roadparts import SOURCE, event_bytes, item, source_of

OTHER = source_of(rank=1)


def checkpoint(
    number: int, name: str = "last.pt", epoch: int | None = None, source: str = SOURCE, **flags: Any
) -> Item:
    blob = {"name": name, "size": 1, "sha256": "0" * 64}
    data = {"blob": blob, "epoch": epoch, **flags}
    rank = int(source.split("/")[3])
    raw = event_bytes(number, "checkpoint", data, rank=rank, dataref="file:///store/1")
    return Item(source, number, "checkpoint", raw, None, 0.0)


def left_out(*batch: Item, ahead: tuple[Item, ...] = ()) -> list[int]:
    return sorted(number for _, number in superseded(batch, ahead))


def test_a_later_checkpoint_of_the_same_name_takes_the_place() -> None:
    assert left_out(checkpoint(1), item(2), checkpoint(3), checkpoint(4)) == [1, 3]


def test_names_that_differ_in_digits_need_a_later_epoch() -> None:
    assert left_out(checkpoint(1, "epoch-1.pt", 1), checkpoint(2, "epoch-2.pt", 2)) == [1]
    assert left_out(checkpoint(1, "epoch-1.pt"), checkpoint(2, "epoch-2.pt")) == []
    shards = [checkpoint(n, f"{n % 2}-of-2.pt", epoch=n // 2) for n in (2, 3, 4, 5)]
    assert left_out(*shards) == [2, 3]


def test_other_names_and_other_sources_are_other_files() -> None:
    assert left_out(checkpoint(1, "encoder.pt", 1), checkpoint(2, "decoder.pt", 2)) == []
    assert left_out(checkpoint(1), checkpoint(2, source=OTHER)) == []


def test_only_a_later_best_takes_the_place_of_a_best() -> None:
    assert left_out(checkpoint(1, best=True), checkpoint(2), checkpoint(3)) == [2]
    assert left_out(checkpoint(1, best=True), checkpoint(2), checkpoint(3, best=True)) == [1, 2]
    of_others = checkpoint(3, "other.pt", best=True)
    assert left_out(checkpoint(1, best=True), checkpoint(2), of_others) == []


def test_a_final_one_is_never_left_out_but_may_take_a_place() -> None:
    best, final = checkpoint(2, best=True), checkpoint(4, final=True)
    assert left_out(checkpoint(1), best, checkpoint(3), final, checkpoint(5)) == [1, 3]
    best_at_last = checkpoint(6, best=True, final=True)
    assert left_out(best, final, best_at_last, checkpoint(7, best=True)) == [2]


def test_a_final_one_takes_the_place_of_other_names_too() -> None:
    on_the_way = [checkpoint(1, "last.pt", best=True), checkpoint(2, "last.pt")]
    assert left_out(*on_the_way, checkpoint(3, "best.pt", best=True, final=True)) == [1, 2]
    assert left_out(*on_the_way, checkpoint(3, "best.pt", final=True)) == [2]
    assert left_out(checkpoint(1), checkpoint(2, "b.pt", final=True, source=OTHER)) == []


def test_a_checkpoint_that_cannot_be_read_neither_goes_nor_takes_a_place() -> None:
    broken = Item(SOURCE, 2, "checkpoint", b"{}", None, 0.0)
    assert left_out(checkpoint(1), broken) == []
    assert left_out(broken, checkpoint(3)) == []


def test_what_is_known_to_come_counts_and_what_has_gone_does_not() -> None:
    assert left_out(checkpoint(4), ahead=(checkpoint(9),)) == [4]
    assert left_out(checkpoint(4), ahead=(checkpoint(2), checkpoint(4))) == []
    assert left_out(item(4), ahead=(checkpoint(5), checkpoint(6))) == []


def test_one_that_went_ahead_takes_the_place_of_those_that_still_wait() -> None:
    final = checkpoint(5, final=True)
    assert left_out(checkpoint(4), checkpoint(7), ahead=(final,)) == [4]


def test_the_latest_say_what_all_of_them_supersede() -> None:
    many = [checkpoint(n, f"e{n}.pt", n, best=n % 10 == 1) for n in range(1, 100)]
    assert [item.number for item in latest(many)] == [91, 99]
    waiting = [checkpoint(1, "e0.pt", 0), checkpoint(2, "e1.pt", 1, best=True)]
    assert superseded(waiting, latest(many[2:])) == superseded(waiting, many[2:])
