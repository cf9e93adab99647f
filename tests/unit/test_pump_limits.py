"""Workers under rate limits and before a sink that is down, in virtual time."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from bus.circuit import MAX_PAUSE_SECONDS
from bus.errors import RetryableSinkError
from tests.fixtures.limitbench import ALL, OTHER, START, bench, limits
from tests.fixtures.roadparts import RUN, source_of
from tests.fixtures.virtualtime import run_virtual


def test_the_requests_of_many_runs_keep_the_limit_of_the_sink() -> None:
    async def main() -> None:
        async with bench(limits(sink="2/s burst 4")) as made:
            await asyncio.sleep(10)
            for number in range(10):
                made.deliver(run=f"r{number}")
            await asyncio.sleep(60)
            assert all(made.written(f"r{number}") == [1] for number in range(10))
            times = [at for at, _, _ in made.sink.calls]
            assert len(times) == 20  # each run is opened and written
            assert times[:4] == [10.0] * 4
            assert all(later - at >= 0.49 for at, later in pairwise(times[3:]))

    run_virtual(main())


def test_a_run_that_waits_for_its_own_tokens_writes_one_growing_batch_and_holds_up_nobody() -> None:
    async def main() -> None:
        async with bench(limits(run="4/hour")) as made:
            made.deliver()
            await asyncio.sleep(1)
            assert made.written() == [1]
            for _ in range(80):
                made.deliver()
                await asyncio.sleep(10)
            assert made.written() == [1]
            # What waits is left to the event log, and the shard is free.
            assert made.unacknowledged() <= 1
            began = made.loop.time() - START
            made.deliver(run=OTHER)
            await asyncio.sleep(1)
            assert made.sink.times(OTHER) == [pytest.approx(began, abs=0.2)]
            report = made.consumer.report()
            assert report["rate_waiting_runs"] == 1
            assert report["waiting_seconds"] > 700
            await asyncio.sleep(900)
            assert made.written() == list(range(1, 82))
            assert made.sink.times(RUN) == [0.0, pytest.approx(900.0, abs=0.1)]
            assert made.consumer.report()["rate_waiting_runs"] == 0

    run_virtual(main())


def test_a_crowded_shard_is_left_at_once_by_a_run_that_waits_for_tokens() -> None:
    async def main() -> None:
        async with bench(limits(run="4/hour")) as made:
            made.deliver()
            await asyncio.sleep(1)
            for _ in range(20):
                made.deliver()
            await asyncio.sleep(1)
            assert made.unacknowledged() == 0
            assert made.written() == [1]

    run_virtual(main())


def test_superseded_checkpoints_are_left_out_after_a_wait_and_counted() -> None:
    async def main() -> None:
        async with bench(limits(run="4/hour")) as made:
            made.deliver("run_started", data={})
            await asyncio.sleep(1)
            made.checkpoint(1)
            made.checkpoint(2, best=True)
            made.checkpoint(3)
            made.deliver()
            made.checkpoint(4)
            made.checkpoint(5, final=True)
            await asyncio.sleep(1000)
            assert made.written() == [1, 3, 5, 7]
            marks = made.sink.marks[RUN]
            assert str(marks.superseded[source_of()]) == "2,4,6"
            assert str(marks.applied[source_of()]) == "1-7"
            assert made.consumer.report()["superseded"] == 3

    run_virtual(main())


def test_without_a_wait_nothing_is_left_out() -> None:
    async def main() -> None:
        async with bench(limits(run="1000/s")) as made:
            for epoch in range(5):
                made.checkpoint(epoch)
            await asyncio.sleep(10)
            assert made.written() == [1, 2, 3, 4, 5]
            assert not made.sink.marks[RUN].superseded

    run_virtual(main())


def test_a_sink_that_was_down_gets_every_checkpoint() -> None:
    async def main() -> None:
        async with bench() as made:
            made.sink.fails = lambda run, now: RetryableSinkError("down") if now < 600 else None
            for epoch in range(5):
                for run in (RUN, OTHER):
                    made.checkpoint(epoch, run)
                await asyncio.sleep(60)
            assert made.consumer.report()["circuit"]["projects"]["digits"]["state"] == "open"
            await asyncio.sleep(600)
            assert made.written() == made.written(OTHER) == [1, 2, 3, 4, 5]

    run_virtual(main())


def test_metrics_pass_checkpoints_that_are_superseded_while_their_kind_waits() -> None:
    async def main() -> None:
        async with bench(limits(checkpoint="4/hour")) as made:
            for epoch in range(120):
                for _ in range(5):
                    made.deliver()
                    await asyncio.sleep(4)
                made.checkpoint(epoch)
            lag = made.last[RUN] - max(made.written())
            uploads = [at for at, _, kinds in made.sink.calls if "checkpoint" in kinds]
            # 40 minutes: one at once, and two more; and the run has not fallen behind.
            assert uploads == [20.0, pytest.approx(920, abs=6), pytest.approx(1820, abs=6)]
            assert lag <= 12
            await asyncio.sleep(900)
            assert made.written()[-1] == made.last[RUN]
            left_out = made.sink.marks[RUN].superseded[source_of()]
            assert len(made.written()) + len(left_out) == made.last[RUN]

    run_virtual(main())


def test_under_scarcity_the_end_of_a_run_goes_before_the_metrics_of_others() -> None:
    async def main() -> None:
        async with bench(limits(sink="1/s")) as made:
            for number in range(8):
                made.deliver(run=f"r{number}")
            await asyncio.sleep(20)
            for number in range(8):
                made.deliver("tags" if number == 7 else "metrics", f"r{number}", _data(number))
            await asyncio.sleep(0.5)
            made.deliver("run_finished", "r6", {"status": "completed", "last_id": 3})
            await asyncio.sleep(20)
            order = [run for at, run, _ in made.sink.calls if at >= 20]
            # The first had the token that lay there.
            assert order[:3] == ["r0", "r6", "r7"]
            assert sorted(order) == [f"r{number}" for number in range(8)]

    run_virtual(main())


def _data(number: int) -> Any:
    return None if number == 7 else {"tables": [{"keys": ["a"], "rows": [[0.5, 1, 2.0]]}]}


def test_a_pause_that_one_run_is_asked_for_holds_for_all() -> None:
    async def main() -> None:
        async with bench() as made:
            made.sink.fails = lambda run, now: RetryableSinkError("429", 60.0) if now < 1 else None
            made.deliver()
            await asyncio.sleep(5)
            made.deliver(run=OTHER)
            assert made.consumer.report()["rate_paused_seconds"] == pytest.approx(55, abs=1)
            await asyncio.sleep(120)
            assert made.written() == made.written(OTHER) == [1]
            assert min(at for at, _, _ in made.sink.calls[1:]) >= 60
            assert MAX_PAUSE_SECONDS >= 60

    run_virtual(main())


def test_a_stop_does_not_wait_for_tokens() -> None:
    async def main() -> None:
        async with bench(limits(sink="1/day", run="4/hour")) as made:
            made.deliver()
            made.deliver(run=OTHER)
            await asyncio.sleep(10)
            began = made.loop.time()
            await made.consumer.release(ALL)
            assert made.loop.time() - began < 1
            assert made.sink.calls == []
            assert made.consumer.report()["rate_waiting_runs"] == 0

    run_virtual(main())


def test_a_member_uses_only_the_share_of_its_shards() -> None:
    async def main() -> None:
        async with bench(limits(sink="4/s burst 4")) as made:
            await made.consumer.release(frozenset({1, 2, 3}))
            await asyncio.sleep(10)
            for number in range(20):
                made.deliver(run=f"r{number}")
            await asyncio.sleep(20)
            assert len(made.sink.calls) == pytest.approx(21, abs=1)

    run_virtual(main())


def test_a_project_that_refuses_writes_holds_up_no_other() -> None:
    async def main() -> None:
        async with bench() as made:
            made.sink.fails = lambda run, now: (
                RetryableSinkError("403") if run.project == "refused" else None
            )
            for number in range(20):
                made.deliver(run=f"bad{number}", project="refused")
            await asyncio.sleep(300)
            for _ in range(50):
                began = made.loop.time() - START
                made.deliver(run="good", project="letters")
                await asyncio.sleep(1)
                assert made.sink.times("good")[-1] == began
            report = made.consumer.report()["circuit"]
            assert report["state"] == "closed"
            assert report["projects"]["refused"]["state"] == "open"
            # 350 s with 20 runs: without a circuit they would have been some 600.
            assert len([run for _, run, _ in made.sink.calls if run != "good"]) < 100

    run_virtual(main())


def test_a_sink_that_was_down_has_got_all_and_was_not_hammered() -> None:
    async def main() -> None:
        runs = [f"r{number}" for number in range(60)]
        async with bench() as made:
            made.sink.fails = lambda run, now: RetryableSinkError("down") if now < 900 else None
            for number, run in enumerate(runs):
                made.deliver(run=run, project=f"p{number % 3}")
            await asyncio.sleep(899)
            assert made.consumer.report()["circuit"]["state"] in {"open", "half-open"}
            assert "down" in made.consumer.report()["circuit"]["error"]
            # Each run found out for itself, all at once; then one at a time.
            assert len(made.sink.calls) <= len(runs) + 130
            assert made.unacknowledged() == 0
            await asyncio.sleep(60)
            assert all(made.written(run) == [1] for run in runs)
            assert made.consumer.report()["circuit"]["state"] == "closed"

    run_virtual(main())


def test_a_worker_that_stood_still_has_no_tokens_left_from_before() -> None:
    async def main() -> None:
        async with bench(limits(sink="1/s burst 20")) as made:
            await asyncio.sleep(20)
            assert made.consumer._gate.turns.bucket is not None
            made.loop.now += 10.0  # SIGSTOP, and SIGCONT
            await asyncio.sleep(0.2)
            for number in range(5):
                made.deliver(run=f"r{number}")
            await asyncio.sleep(3)
            assert len(made.sink.calls) == 3

    run_virtual(main())
