"""What waits for the journal is bounded."""

from __future__ import annotations

from publishers.wrapper.backlog import (
    BURST_BYTES,
    BYTES_PER_SECOND,
    EVENT_BYTES,
    MAX_WAITING_BYTES,
    Backlog,
    Entry,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_of(entries: list[Entry]) -> list[str]:
    return [line for _, _, data in entries for line in data.get("lines", [])]


def test_lines_keep_their_order_and_share_events() -> None:
    backlog = Backlog(Clock(), lambda: 7.0)
    backlog.add_lines(["a", "b"])
    backlog.add_readings({"cpu.percent": 3.0})
    backlog.add_lines(["c"])
    assert backlog.take() == [
        ("console", 7.0, {"lines": ["a", "b"]}),
        ("system", 7.0, {"values": {"cpu.percent": 3.0}}),
        ("console", 7.0, {"lines": ["c"]}),
    ]
    assert backlog.take() == []


def test_an_event_holds_no_more_than_its_share() -> None:
    backlog = Backlog(Clock(), lambda: 7.0)
    backlog.add_lines(["x" * 1000] * 100)
    sizes = [sum(map(len, data["lines"])) for _, _, data in backlog.take()]
    assert sum(sizes) == 100_000
    assert max(sizes) <= EVENT_BYTES


def test_what_nobody_takes_is_dropped_counted_and_told() -> None:
    backlog = Backlog(Clock(), lambda: 7.0)
    backlog.add_lines(["x" * 1000] * 3000)
    assert MAX_WAITING_BYTES * 0.9 < 1016 * len(lines_of(backlog._entries)) < MAX_WAITING_BYTES
    assert backlog.is_full
    taken = lines_of(backlog.take())
    assert taken[-1] == f"[trainbus: {backlog.dropped} lines were left out]"
    assert len(taken) - 1 + backlog.dropped == 3000


def test_a_flood_is_held_to_a_rate_and_goes_on_afterwards() -> None:
    clock = Clock()
    backlog = Backlog(clock, lambda: 7.0)
    kept: list[str] = []
    for _ in range(10):
        backlog.add_lines(["x" * 984] * 1000)
        kept += lines_of(backlog.take())
    assert kept.count("x" * 984) == 10_000 - backlog.dropped <= BURST_BYTES / 1000
    before = backlog.dropped
    clock.now += 1.0
    backlog.add_lines(["y" * 984] * 1000)
    taken = lines_of(backlog.take())
    assert BYTES_PER_SECOND / 1000 * 0.9 < taken.count("y" * 984) <= BYTES_PER_SECOND / 1000 + 1
    assert taken[-1] == f"[trainbus: {backlog.dropped - before} lines were left out]"
