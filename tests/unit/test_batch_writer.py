"""Writing batches to a sink: retries, the search for a poisonous event, dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from bus.errors import LogError, PermanentSinkError, RetryableSinkError, SinkError
from bus.eventlog import DeadLetter
from bus.events import Event
from bus.feed import Item
from bus.retry import RetryPolicy
from bus.sinks import BatchLimits, Marks, RunRef, SinkContents
from subscribers.worker.writer import UNKNOWN_ERROR_ATTEMPTS, BatchWriter, WriterStats
from tests.fixtures.roadparts import RUN, SOURCE, event_bytes, item

RUN_REF = RunRef("digits", RUN, "mlp")


class Sink:
    """Takes what ``refuse`` lets through, and remembers each call."""

    name = "test"
    limits = BatchLimits()
    kinds = frozenset({"tags", "run_started", "metrics"})

    def __init__(self, refuse: Callable[[list[int]], Exception | None] = lambda _: None) -> None:
        self.refuse = refuse
        self.calls: list[list[int]] = []
        self.taken: list[int] = []
        self.marks = Marks()

    async def open_run(self, run: RunRef) -> Marks:
        return self.marks.copy()

    async def write(self, run: RunRef, events: Sequence[Event], marks: Marks) -> None:
        ids = [event.id for event in events]
        self.calls.append(ids)
        error = self.refuse(ids)
        if error is not None:
            raise error
        assert all(marks.is_applied(SOURCE, number) for number in ids)
        self.taken += ids
        self.marks = marks.copy()

    async def close_run(self, run: RunRef) -> None: ...

    async def contents(self, run: RunRef) -> SinkContents | None:
        return None

    async def close(self) -> None: ...


class Letters:
    """Keeps dead letters, unless told that the log is away."""

    def __init__(self, failures: int = 0) -> None:
        self.kept: list[tuple[int, str, int]] = []
        self.resolved: list[tuple[int, int]] = []
        self.failures = failures

    async def keep(self, run: RunRef, item: Item, error: Exception, attempts: int) -> None:
        if self.failures:
            self.failures -= 1
            raise LogError("away", is_retryable=True)
        self.kept.append((item.number, str(error), attempts))

    async def resolve(self, run: RunRef, item: Item, attempts: int) -> None:
        if self.failures:
            self.failures -= 1
            raise LogError("away", is_retryable=True)
        self.resolved.append((item.number, attempts))

    async def wanted(
        self, is_ours: Callable[[str], bool], is_here: Callable[[DeadLetter], bool]
    ) -> list[DeadLetter]:
        return []


def writer(
    sink: Sink, letters: Letters | None = None, waits: list[float] | None = None
) -> BatchWriter:
    async def sleep(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)

    return BatchWriter(
        sink, RUN_REF, letters or Letters(), WriterStats(), sleep, RetryPolicy(), lambda: 1.0
    )


def items(*numbers: int) -> list[Item]:
    return [item(number) for number in numbers]


async def test_a_batch_is_written_in_one_call_with_its_marks() -> None:
    sink, marks = Sink(), Marks()
    await writer(sink).write(items(1, 2, 3), marks)
    assert sink.calls == [[1, 2, 3]]
    assert str(marks.applied[SOURCE]) == str(sink.marks.applied[SOURCE]) == "1-3"


async def test_kinds_the_sink_has_no_use_for_count_as_applied() -> None:
    sink, marks = Sink(), Marks()
    bench = writer(sink)
    await bench.write([item(1, kind="console"), *items(2)], marks)
    assert sink.calls == [[2]]
    assert str(sink.marks.applied[SOURCE]) == "1-2"
    assert bench.stats.not_applicable == 1


async def test_what_is_left_out_is_marked_in_the_call_that_takes_its_place() -> None:
    sink, marks = Sink(), Marks()
    bench = writer(sink)
    await bench.write(items(1, 2, 3), marks, {(SOURCE, 1), (SOURCE, 2)})
    assert sink.calls == [[3]]
    assert str(sink.marks.superseded[SOURCE]) == str(marks.superseded[SOURCE]) == "1-2"
    assert (bench.stats.superseded, bench.stats.delivered) == (2, 1)


async def test_what_makes_way_for_an_event_that_is_refused_is_not_marked() -> None:
    sink, letters, marks = (
        Sink(lambda ids: PermanentSinkError("no") if 3 in ids else None),
        Letters(),
        Marks(),
    )
    bench = writer(sink, letters)
    await bench.write(items(1, 2, 3), marks, {(SOURCE, 1)})
    assert [number for number, _, _ in letters.kept] == [3]
    assert str(marks.applied[SOURCE]) == "2-3"
    assert bench.stats.superseded == 0


async def test_a_sink_that_is_down_gets_the_same_batch_until_it_takes_it() -> None:
    failures = [RetryableSinkError("down"), RetryableSinkError("slow", 9.0)]
    waits: list[float] = []
    sink = Sink(lambda _: failures.pop(0) if failures else None)
    bench = writer(sink, waits=waits)
    await bench.write(items(1, 2), Marks())
    assert sink.calls == [[1, 2]] * 3
    assert waits[1] >= 9.0
    assert bench.stats.retries == 2
    assert bench.retrying_since is None


@pytest.mark.parametrize("poison", [{1}, {4}, {7}, {2, 3}, {1, 7}, set(range(1, 8))])
async def test_only_the_poisonous_events_become_dead_letters(poison: set[int]) -> None:
    def refuse(ids: list[int]) -> Exception | None:
        return PermanentSinkError("illegal change") if poison & set(ids) else None

    sink, letters, marks = Sink(refuse), Letters(), Marks()
    bench = writer(sink, letters)
    await bench.write(items(*range(1, 8)), marks)
    assert sink.taken == [number for number in range(1, 8) if number not in poison]
    assert [number for number, _, _ in letters.kept] == sorted(poison)
    assert all(reason == "illegal change" for _, reason, _ in letters.kept)
    # The marks in the sink say so too, and that they are dead.
    for held in (marks, sink.marks):
        assert str(held.applied[SOURCE]) == "1-7"
        assert {n for n in range(1, 8) if n in held.dead[SOURCE]} == poison
    assert bench.stats.dead == len(poison)


async def test_an_event_that_cannot_be_decoded_is_a_dead_letter() -> None:
    bad = Item(SOURCE, 1, "tags", event_bytes(1, data={"set": 5}), None, 0.0)
    sink, letters, marks = Sink(), Letters(), Marks()
    await writer(sink, letters).write([bad, *items(2)], marks)
    assert letters.kept[0][0] == 1
    assert letters.kept[0][2] == 1
    assert sink.taken == [2]
    assert str(sink.marks.dead[SOURCE]) == "1"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), SinkError("who knows")])
async def test_an_error_nobody_knows_is_tried_a_few_times(error: Exception) -> None:
    sink, letters = Sink(lambda ids: error if ids else None), Letters()
    await writer(sink, letters).write(items(1), Marks())
    assert sink.calls[:-1] == [[1]] * UNKNOWN_ERROR_ATTEMPTS
    ((number, reason, attempts),) = letters.kept
    assert number == 1
    assert str(error) in reason
    assert attempts == UNKNOWN_ERROR_ATTEMPTS


async def test_a_dead_letter_that_cannot_be_kept_yet_is_waited_for() -> None:
    sink = Sink(lambda ids: PermanentSinkError("no") if ids else None)
    letters, waits = Letters(failures=2), list[float]()
    await writer(sink, letters, waits).write(items(1), Marks())
    assert [number for number, _, _ in letters.kept] == [1]
    assert len(waits) == 2


async def test_marks_the_sink_refuses_do_not_undo_the_letters() -> None:
    sink, letters, marks = Sink(lambda _: PermanentSinkError("gone")), Letters(), Marks()
    await writer(sink, letters).write(items(1), marks)
    assert [number for number, _, _ in letters.kept] == [1]
    assert marks.is_applied(SOURCE, 1)


async def test_giving_up_between_attempts_leaves_the_marks_as_they_are() -> None:
    class StoppingError(Exception):
        pass

    async def sleep(_: float) -> None:
        raise StoppingError

    poison = {3}

    def refuse(ids: list[int]) -> Exception | None:
        if len(ids) > 2:
            return PermanentSinkError("one of them")
        return RetryableSinkError("down") if poison & set(ids) else None

    sink, marks = Sink(refuse), Marks()
    bench = BatchWriter(sink, RUN_REF, Letters(), WriterStats(), sleep)
    with pytest.raises(StoppingError):
        await bench.write(items(1, 2, 3, 4), marks)
    assert str(marks.applied[SOURCE]) == "1-2"


async def test_a_run_that_goes_to_other_sinks_is_not_written() -> None:
    started = event_bytes(1, "run_started", {"sinks": ["other"]})
    first = Item(SOURCE, 1, "run_started", started, None, 0.0)
    sink, marks = Sink(), Marks()
    bench = writer(sink)
    await bench.write([first, *items(2)], marks)
    await bench.write(items(3), marks)
    assert sink.calls == []
    assert str(marks.applied[SOURCE]) == "1-3"
    assert bench.stats.not_applicable == 3
