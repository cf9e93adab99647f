"""How often a final model is tried, and how its upload is shown."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest

from subscribers.hub.progress import Uploads
from subscribers.hub.v1.finals import FinalTries


def test_ten_tries_come_in_growing_distances_within_an_hour() -> None:
    tries, now = FinalTries("s", 1), 1000.0
    begun = []
    while not tries.is_over(now):
        if now >= tries.next_at:
            tries = FinalTries.of(tries.begin(now).to_json(), "s", 1, is_dead=False, now=now)
            begun.append(now)
        now += 1.0
    assert len(begun) == 10
    assert [b - a for a, b in pairwise(begun)] == [2.0**n for n in range(1, 10)]
    assert begun[-1] - begun[0] < 3600


def test_tries_that_take_long_end_after_an_hour() -> None:
    tries = FinalTries("s", 1).begin(1000.0)
    assert not tries.is_over(4599.0)
    assert tries.is_over(4600.0)


@pytest.mark.parametrize("kept", [None, 7, {}, {"source": "s"}, {"unknown": 1}, "x"])
def test_what_was_not_kept_counts_as_nothing(kept: object) -> None:
    assert FinalTries.of(kept, "s", 1, is_dead=False, now=1.0) == FinalTries("s", 1)


def test_another_event_and_one_that_was_given_up_begin_anew() -> None:
    over = FinalTries("s", 1, tries=10, since=1.0, next_at=2.0)
    assert FinalTries.of(over.to_json(), "s", 1, is_dead=False, now=9.0) == over
    assert FinalTries.of(over.to_json(), "s", 2, is_dead=False, now=9.0).tries == 0
    assert FinalTries.of(over.to_json(), "s", 1, is_dead=True, now=9.0).tries == 0
    some = FinalTries("s", 1, tries=3, since=1.0, next_at=2.0)
    assert FinalTries.of(some.to_json(), "s", 1, is_dead=True, now=9.0) == some


def test_progress_is_a_line_every_tenth_or_every_ten_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    uploads = Uploads(lambda: now)
    assert uploads.state() == {}
    with uploads.begin("r1", "last.pt", 1000) as upload, uploads.begin("r2", "best.pt", 0):
        for _ in range(25):
            upload.add(1)
        assert caplog.records == []
        now = 10.0
        upload.add(1)
        now = 19.0
        upload.add(1)
        assert [r.message for r in caplog.records] == [
            "hub: run r1: last.pt: 2 % of 0.0 MB sent, 10 s"
        ]
        upload.add(400)
        assert "42 %" in caplog.records[-1].message
        upload.add(60)
        assert len(caplog.records) == 2
        assert uploads.state() == {
            "uploads": [
                {"run": "r1", "file": "last.pt", "percent": 48, "size_bytes": 1000, "seconds": 19},
                {"run": "r2", "file": "best.pt", "percent": 100, "size_bytes": 0, "seconds": 19},
            ],
            "uploads_under_way": 2,
        }
    assert uploads.state() == {}
