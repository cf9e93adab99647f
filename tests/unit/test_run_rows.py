from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import EventError
from publishers.drops import Drops
from publishers.journal.format import check_line
from publishers.journal.rows import MAX_RECORD_BYTES, MetricRows, split_keys
from publishers.journal.writer import Declared, Table


class Memory:
    """A journal in memory."""

    def __init__(self) -> None:
        self.declared: Declared = {}
        self.tables: dict[int, list[str]] = {}
        self.rows: list[list[Any]] = []
        self.quick = 0

    def append_row(self, line: bytes, declared: Declared) -> bool:
        payload = check_line(line.rstrip(b"\n"))
        assert payload is not None
        self.rows.append(orjson.loads(payload))
        self.quick += 1
        return True

    def append(self, payload: bytes, table: Table | None = None) -> bool:
        assert table is not None
        self.declared[table.keys] = table.number
        self.tables[table.number] = orjson.loads(table.declaration)["keys"]
        self.rows.append(orjson.loads(payload))
        return True

    def close(self) -> None:
        pass

    def points(self) -> list[tuple[int, dict[str, Any]]]:
        """Step and values of every row."""
        return [
            (row[1 + 1], dict(zip(self.tables[row[0]], row[3:], strict=True))) for row in self.rows
        ]


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def drops() -> Drops:
    return Drops()


@pytest.fixture
def rows(memory: Memory, drops: Drops) -> MetricRows:
    return MetricRows(memory, drops, clock=lambda: 1.5)


def test_a_row_holds_time_step_and_values(rows: MetricRows, memory: Memory) -> None:
    rows.log({"a": 0.5, "b": 2}, 10)
    assert memory.rows == [[1, 1.5, 10, 0.5, 2]]
    assert memory.tables == {1: ["a", "b"]}


def test_the_second_row_of_a_table_goes_the_short_way(rows: MetricRows, memory: Memory) -> None:
    for step in range(5):
        rows.log({"a": 0.5, "b": np.float32(0.1)}, step)
    assert memory.quick == 4
    assert memory.points() == [(step, {"a": 0.5, "b": 0.10000000149011612}) for step in range(5)]


def test_without_a_step_it_is_one_more_than_the_last(rows: MetricRows, memory: Memory) -> None:
    for step in (None, None, 10, None, np.int64(20), None):
        rows.log({"a": 1.0}, step)
    assert [step for step, _ in memory.points()] == [0, 1, 10, 11, 20, 21]


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (True, 1),
        (2**64, 2.0**64),
        (np.float64("inf"), "Infinity"),
        (np.bool_(False), 0),
    ],
)
def test_an_unusual_value_arrives_in_the_same_table(
    rows: MetricRows, memory: Memory, value: object, wire: object
) -> None:
    rows.log({"a": 1.0, "b": 1.0}, 0)
    rows.log({"a": value, "b": 2.0}, 1)
    assert memory.points()[1] == (1, {"a": wire, "b": 2.0})
    assert len(memory.tables) == 1


@pytest.mark.parametrize("value", ["1", None, [], [1], {"a": 1}, b"1", object(), np.zeros(2)])
def test_a_value_that_is_no_number_is_left_out_and_counted(
    rows: MetricRows, memory: Memory, drops: Drops, value: object
) -> None:
    for step in range(3):
        rows.log({"a": 1.0, "b": value}, step)
    assert memory.points() == [(step, {"a": 1.0}) for step in range(3)]
    assert drops.counts() == {"bad_value": 3}


def test_each_key_is_warned_about_once(rows: MetricRows, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        rows.log({"a": "x", "b": None})
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "metrics['a']: str 'x' is not a number" in caplog.messages[0]


@pytest.mark.parametrize("key", ["", 1, None, "k" * 1025, "\ud800"])
def test_a_key_that_is_no_name_is_left_out(
    rows: MetricRows, memory: Memory, drops: Drops, key: Any
) -> None:
    rows.log({key: 1.0, "b": 2.0}, 0)
    assert memory.points() == [(0, {"b": 2.0})]
    assert drops.counts() == {"bad_value": 1}


@pytest.mark.parametrize("step", [1.5, "1", math.nan, [1]])
def test_a_row_with_a_step_that_is_none_is_left_out(
    rows: MetricRows, memory: Memory, drops: Drops, step: Any
) -> None:
    rows.log({"a": 1.0, "b": 2.0}, step)
    assert memory.rows == []
    assert drops.counts() == {"bad_value": 2}


def test_a_step_that_is_a_whole_float_is_taken(rows: MetricRows, memory: Memory) -> None:
    rows.log({"a": 1.0}, 0)
    rows.log({"a": 1.0}, 3.0)
    assert memory.rows[1][2] == 3
    assert type(memory.rows[1][2]) is int


@pytest.mark.parametrize("metrics", [None, 1.5, [("a", 1)], "a", {1, 2}])
def test_what_is_no_dict_is_counted(rows: MetricRows, drops: Drops, metrics: Any) -> None:
    rows.log(metrics, 0)
    assert drops.counts() == {"bad_value": 1}


def test_an_empty_dict_is_nothing(rows: MetricRows, memory: Memory, drops: Drops) -> None:
    rows.log({}, 0)
    assert memory.rows == []
    assert drops.counts() == {}


def test_strict_raises_and_names_the_key(memory: Memory, drops: Drops) -> None:
    rows = MetricRows(memory, drops, is_strict=True)
    with pytest.raises(EventError, match="is not a number") as caught:
        rows.log({"a": "x"})
    assert caught.value.field == "metrics['a']"
    with pytest.raises(EventError, match="whole number"):
        rows.log({"a": 1.0}, 0.5)
    rows.log({"a": math.nan})
    assert drops.counts() == {}


def test_other_ranks_prefix_their_keys(memory: Memory, drops: Drops) -> None:
    rows = MetricRows(memory, drops, rank=3)
    for _ in range(2):
        rows.log({"a": 1.0}, 0)
        rows.log({"a": 2.0}, 0, rank_prefix=False)
    assert [values for _, values in memory.points()] == [{"rank3/a": 1.0}, {"a": 2.0}] * 2
    assert memory.quick == 2


def test_rank_0_keeps_its_names_either_way(memory: Memory, drops: Drops) -> None:
    rows = MetricRows(memory, drops, rank=0)
    rows.log({"a": 1.0}, 0)
    rows.log({"a": 2.0}, 0, rank_prefix=False)
    assert [values for _, values in memory.points()] == [{"a": 1.0}, {"a": 2.0}]


def test_ten_thousand_keys_are_spread_over_tables_that_fit(
    rows: MetricRows, memory: Memory, drops: Drops
) -> None:
    metrics = {f"layer{n}/{'x' * 40}": -1.7976931348623157e308 for n in range(10_000)}
    rows.log(metrics, 0)
    rows.log(metrics, 1)
    assert drops.counts() == {}
    found: dict[int, dict[str, float]] = {0: {}, 1: {}}
    for step, values in memory.points():
        found[step].update(values)
    assert found == {0: metrics, 1: metrics}
    assert len(memory.tables) > 1
    for row in memory.rows:
        size = len(orjson.dumps(row)) + len(orjson.dumps(memory.tables[row[0]]))
        assert size < MAX_RECORD_BYTES + 100


def test_a_program_that_never_repeats_a_key_set_does_not_fill_the_memory(
    rows: MetricRows, memory: Memory
) -> None:
    for step in range(10_050):
        rows.log({f"k{step}": 1.0}, step)
    assert len(rows._tables) <= 10_000
    assert len(memory.tables) == 10_050


def test_a_dict_that_changes_under_the_call_is_counted(
    rows: MetricRows, drops: Drops, memory: Memory
) -> None:
    class Changing(dict[str, float]):
        def items(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    rows.log(Changing(a=1.0))
    rows.log({"a": 1.0}, 5)
    assert drops.counts() == {"internal": 1}
    assert memory.points() == [(5, {"a": 1.0})]


def test_a_mapping_that_is_no_dict_is_taken(rows: MetricRows, memory: Memory) -> None:
    class Odd(Mapping[str, float]):
        def __getitem__(self, key: str) -> float:
            return 1.0

        def __iter__(self) -> Any:
            return iter(["a"])

        def __len__(self) -> int:
            return 1

    rows.log(Odd(), 0)
    rows.log(Odd(), 1)
    assert memory.points() == [(0, {"a": 1.0}), (1, {"a": 1.0})]


@given(st.lists(st.text(min_size=1, max_size=40), unique=True), st.integers(60, 300))
def test_splitting_keeps_every_key_in_order_and_within_the_limit(
    keys: list[str], limit: int
) -> None:
    parts = list(split_keys([key.encode(errors="replace").decode() for key in keys], limit))
    assert [key for part in parts for key in part] == [
        key.encode(errors="replace").decode() for key in keys
    ]
    for part in parts:
        assert len(part) == 1 or len(orjson.dumps(part)) + 26 * len(part) <= limit + 2


@given(
    st.lists(
        st.one_of(
            st.floats(), st.integers(-(2**70), 2**70), st.booleans(), st.text(max_size=3), st.none()
        ),
        min_size=1,
        max_size=5,
    )
)
def test_the_short_way_and_the_long_way_agree(values: list[Any]) -> None:
    memory, drops = Memory(), Drops()
    rows = MetricRows(memory, drops, clock=lambda: 1.5)
    keys = [f"k{number}" for number in range(len(values))]
    rows.log(dict.fromkeys(keys, 0.0), 0)
    memory.rows.clear()
    rows.log(dict(zip(keys, values, strict=True)), 1)
    quick = list(memory.points())
    memory.rows.clear()
    memory.declared = {}
    rows.log(dict(zip(keys, values, strict=True)), 1)
    assert memory.points() == quick


def test_threads_without_steps_get_each_step_once(memory: Memory, drops: Drops) -> None:
    rows = MetricRows(memory, drops)

    def work() -> None:
        for _ in range(500):
            rows.log({"a": 1.0})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(step for step, _ in memory.points()) == list(range(2000))
