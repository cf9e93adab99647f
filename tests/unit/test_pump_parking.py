"""Runs whose checkpoints or metrics have a limit of their own, in virtual time."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from bus.errors import LogError, PermanentSinkError, RetryableSinkError
from bus.ratelimit import RateLimits
from tests.fixtures.limitbench import START, Bench, bench, limits
from tests.fixtures.roadparts import RUN, source_of
from tests.fixtures.virtualtime import run_virtual

SOURCE = source_of()
HUB = {"checkpoint": "4/hour"}
"""As the client of Ultralytics HUB: one in 900 s."""
EPOCHS = 100
EPOCH_SECONDS = 60.0
BEST = {3, 10, 11, 40, 77, 93}


def metrics(made: Bench, step: int) -> None:
    made.deliver("metrics", data={"tables": [{"keys": ["a"], "rows": [[0.5, step, 2.0]]}]})


def written_at(made: Bench, kind: str) -> list[float]:
    """When calls with events of a kind were made."""
    return [at for at, _, kinds in made.sink.calls if kind in kinds]


def now(made: Bench) -> float:
    return made.loop.time() - START


class Training:
    """A run of many epochs, each with metrics and a checkpoint."""

    def __init__(self, made: Bench) -> None:
        self.made = made
        self.metrics: dict[int, float] = {}
        """When each metrics event was delivered, by id."""
        self.epochs: dict[int, int] = {}
        """The epoch of each checkpoint, by id."""
        self.late: list[int] = []

    async def train(self, first: int, last: int) -> None:
        for epoch in range(first, last + 1):
            for step in range(4):
                metrics(self.made, epoch * 4 + step)
                self.metrics[self.made.last[RUN]] = now(self.made)
                await asyncio.sleep(EPOCH_SECONDS / 4)
                if self.made.last[RUN] not in self.made.written():
                    self.late.append(self.made.last[RUN])
            self.made.checkpoint(epoch, best=epoch in BEST)
            self.epochs[self.made.last[RUN]] = epoch

    def finish(self) -> None:
        self.made.checkpoint(EPOCHS, name="best.pt", final=True)
        self.epochs[self.made.last[RUN]] = EPOCHS
        last = self.made.last[RUN] + 1
        self.made.deliver("run_finished", data={"status": "completed", "last_id": last})

    def uploaded(self) -> list[int]:
        """The epochs of the checkpoints the sink was given, in this order."""
        return [self.epochs[number] for number in self.made.written() if number in self.epochs]


def check_all_is_there(training: Training) -> None:
    """Published = written + superseded, the end last, each thing once."""
    made = training.made
    last = made.last[RUN]
    written = made.written()
    marks = made.sink.marks[RUN]
    assert str(marks.applied[SOURCE]) == f"1-{last}"
    superseded = {n for a, b in marks.superseded[SOURCE] for n in range(a, b + 1)}
    assert set(written) | superseded == set(range(1, last + 1))
    assert len(written) + len(superseded) == last
    assert superseded <= training.epochs.keys()
    assert written[-1] == last, "the end comes last"
    assert made.letters.kept == []
    assert made.unacknowledged() == 0
    uploads = training.uploaded()
    # The final one goes at once; the best of the epochs waits for its token.
    assert max(BEST) in uploads
    assert EPOCHS in uploads


def test_metrics_never_wait_for_checkpoints_and_the_last_best_and_the_final_one_arrive() -> None:
    async def main() -> None:
        async with bench(limits(**HUB)) as made:
            training = Training(made)
            made.deliver("run_started", data={})
            await training.train(1, EPOCHS)
            assert training.late == []
            began = now(made)
            training.finish()
            await asyncio.sleep(1)
            assert EPOCHS in training.uploaded(), "the final one waits for nothing"
            await asyncio.sleep(2000)
            check_all_is_there(training)
            held = [
                at for at in written_at(made, "checkpoint") if at != pytest.approx(began, abs=0.5)
            ]
            assert len(held) >= EPOCHS * EPOCH_SECONDS / 900
            assert all(later - at >= 899.9 for at, later in pairwise(held))
            assert made.consumer.report()["superseded"] == EPOCHS + 1 - len(training.uploaded())
            assert made.consumer.report()["rate_waiting_runs"] == 0

    run_virtual(main())


def test_at_each_token_the_best_so_far_is_among_what_is_uploaded() -> None:
    async def main() -> None:
        async with bench(limits(**HUB)) as made:
            training = Training(made)
            await training.train(1, EPOCHS)
            uploads = training.uploaded()
            assert uploads == sorted(uploads)
            for at in written_at(made, "checkpoint"):
                # Epoch e ends after e minutes.
                best = max((e for e in BEST if e * EPOCH_SECONDS <= at), default=None)
                assert best is None or best in uploads

    run_virtual(main())


@pytest.mark.parametrize("epoch", [2, 50, 93, 99])
def test_a_worker_that_takes_over_half_way_loses_nothing(epoch: int) -> None:
    async def main() -> None:
        async with bench(limits(**HUB)) as made:
            training = Training(made)
            made.deliver("run_started", data={})
            await training.train(1, epoch)
            await asyncio.sleep(7)
            assert made.sink.marks[RUN].applied[SOURCE].gaps() or epoch == 2
            await made.replace()
            made.log.reads.clear()
            await asyncio.sleep(3)
            read = sum(min(last, made.last[RUN]) - first + 1 for _, first, last in made.log.reads)
            assert read <= len(training.epochs) + 10, "what lies above the holes is not read again"
            await training.train(epoch + 1, EPOCHS)
            assert training.late == []
            training.finish()
            await asyncio.sleep(2000)
            check_all_is_there(training)

    run_virtual(main())


def test_a_worker_that_takes_over_at_the_end_uploads_the_best_that_was_parked() -> None:
    async def main() -> None:
        async with bench(limits(**HUB)) as made:
            training = Training(made)
            await training.train(1, EPOCHS)
            training.finish()
            await asyncio.sleep(1)
            await made.replace()
            await asyncio.sleep(2000)
            check_all_is_there(training)

    run_virtual(main())


def test_the_end_waits_for_what_is_parked_and_not_for_what_the_final_one_supersedes() -> None:
    async def main() -> None:
        async with bench(limits(**HUB)) as made:
            made.checkpoint(1)
            await asyncio.sleep(1)
            made.checkpoint(2)
            await asyncio.sleep(20)
            made.checkpoint(3, final=True)
            made.deliver("run_finished", data={"status": "completed", "last_id": 4})
            await asyncio.sleep(10)
            assert made.written() == [1, 3, 4]
            assert str(made.sink.marks[RUN].superseded[SOURCE]) == "2"

    run_virtual(main())


def test_a_checkpoint_whose_successor_is_dead_is_uploaded() -> None:
    async def main() -> None:
        async with bench(limits(**HUB)) as made:
            made.checkpoint(1)
            await asyncio.sleep(1)
            made.sink.fails = lambda run, at: (
                PermanentSinkError("too large")
                if at < 60 and "checkpoint" in made.sink.calls[-1][2]
                else None
            )
            made.checkpoint(2)
            await asyncio.sleep(10)
            made.checkpoint(3, final=True)
            await asyncio.sleep(10)
            assert made.letters.kept == [3]
            made.deliver("run_finished", data={"status": "completed", "last_id": 4})
            await asyncio.sleep(800)
            assert made.written() == [1]
            await asyncio.sleep(100)
            assert made.written() == [1, 2, 4]

    run_virtual(main())


def test_metrics_with_a_limit_gather_and_go_in_one_write_and_others_pass() -> None:
    async def main() -> None:
        async with bench(limits(metrics="20/min")) as made:
            for second in range(30):
                metrics(made, second)
                made.deliver()
                await asyncio.sleep(0.5)
                assert made.last[RUN] in made.written()
                metrics(made, second)
                await asyncio.sleep(0.5)
            await asyncio.sleep(5)
            assert sorted(made.written()) == list(range(1, 91))
            times = written_at(made, "metrics")
            assert all(later - at >= 2.99 for at, later in pairwise(times))
            assert len(times) == pytest.approx(11, abs=1)
            assert made.unacknowledged() == 0

    run_virtual(main())


def test_many_parked_messages_do_not_crowd_the_shard() -> None:
    async def main() -> None:
        async with bench(limits(**HUB)) as made:
            for epoch in range(20):
                made.checkpoint(epoch, best=True, name=f"{'abcdefghijklmnopqrst'[epoch]}.pt")
            await asyncio.sleep(1)
            made.deliver()
            await asyncio.sleep(1)
            assert made.unacknowledged() == 0
            assert made.consumer._pumps["digits", RUN].feed.parked() == [], "they are in the log"
            assert made.written()[-1] == 21

    run_virtual(main())


def test_a_backlog_is_caught_up_with_one_upload_and_all_of_the_metrics() -> None:
    async def main() -> None:
        async with bench(limits(**HUB)) as made:
            made.sink.fails = lambda run, at: RetryableSinkError("down") if at < 3000 else None
            training = Training(made)
            await training.train(1, 45)
            training.late.clear()
            await asyncio.sleep(400)
            assert training.metrics.keys() <= set(made.written())
            assert training.uploaded() == [40], "the best of all"
            await asyncio.sleep(1000)
            assert training.uploaded() == [40, 45]

    run_virtual(main())


def test_a_failed_upload_waits_for_its_next_token_and_holds_up_nobody() -> None:
    async def main() -> None:
        async with bench(limits(**HUB)) as made:
            made.sink.fails = lambda run, at: (
                RetryableSinkError("503")
                if at < 800 and "checkpoint" in made.sink.calls[-1][2]
                else None
            )
            made.checkpoint(1)
            for step in range(100):
                metrics(made, step)
                await asyncio.sleep(10)
                assert made.last[RUN] in made.written() or step == 0
            assert written_at(made, "checkpoint") == [0.0, pytest.approx(900, abs=1)]
            assert 1 in made.written()

    run_virtual(main())


def test_the_search_for_a_culprit_needs_no_further_token() -> None:
    async def main() -> None:
        async with bench(limits(**HUB)) as made:
            made.sink.fails = lambda run, at: (
                PermanentSinkError("no") if "checkpoint" in made.sink.calls[-1][2] else None
            )
            made.checkpoint(1, name="a.pt")
            made.checkpoint(2, name="b.pt")
            metrics(made, 1)
            await asyncio.sleep(10)
            assert made.letters.kept == [1, 2]
            assert made.written() == [3]

    run_virtual(main())


def test_an_error_that_the_sink_does_not_know_needs_no_further_token() -> None:
    async def main() -> None:
        async with bench(limits(**HUB)) as made:
            made.sink.fails = lambda run, at: (
                ValueError("odd") if "checkpoint" in made.sink.calls[-1][2] else None
            )
            made.checkpoint(1)
            metrics(made, 1)
            await asyncio.sleep(60)
            assert made.letters.kept == [1]
            assert made.written() == [2]

    run_virtual(main())


def test_a_log_that_is_away_when_the_token_comes_holds_up_checkpoints_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with bench(limits(**HUB)) as made:
            made.checkpoint(1)
            await asyncio.sleep(1)
            made.checkpoint(2, best=True)
            await asyncio.sleep(890)
            made.log.errors = [LogError("away", is_retryable=True)] * 8
            for step in range(10):
                metrics(made, step)
                await asyncio.sleep(1.5)
                assert made.last[RUN] in made.written()
            await asyncio.sleep(60)
            assert 2 in made.written()

    run_virtual(main())
    assert "cannot read the event log" in caplog.text


def test_checkpoints_that_need_not_wait_are_all_uploaded() -> None:
    async def main() -> None:
        async with bench(limits(checkpoint="60/min burst 10")) as made:
            for epoch in range(10):
                made.checkpoint(epoch)
            await asyncio.sleep(5)
            assert made.written() == list(range(1, 11))

    run_virtual(main())


def test_a_run_that_only_waits_for_a_token_sleeps_until_then() -> None:
    async def main() -> None:
        async with bench(limits(**HUB)) as made:
            made.checkpoint(1)
            await asyncio.sleep(1)
            made.checkpoint(2, best=True)
            await asyncio.sleep(10)
            pump = made.consumer._pumps["digits", RUN]
            looks = 0
            peek = pump.feed.peek

            def counted(*args: Any) -> Any:
                nonlocal looks
                looks += 1
                return peek(*args)

            pump.feed.peek = counted  # type: ignore[method-assign,assignment]  # counts the looks
            await asyncio.sleep(800)
            # Each time the consumer has looked into the log, and not every half second.
            assert looks <= 200
            await asyncio.sleep(100)
            assert made.sink.times() == [0.0, pytest.approx(900.0, abs=0.1)]

    run_virtual(main())


def test_without_limits_nothing_is_parked() -> None:
    async def main() -> None:
        async with bench(RateLimits()) as made:
            made.checkpoint(1)
            made.checkpoint(2)
            metrics(made, 1)
            await asyncio.sleep(1)
            assert made.written() == [1, 2, 3]

    run_virtual(main())
