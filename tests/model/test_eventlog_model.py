"""The event log against a dictionary, under any sequence of calls."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bus.eventlog import EventLog, LogRecord, Selection
from bus.idranges import IdRanges

SOURCES = [f"/runs/r{run}/{rank}/1-1-0123456789abcdef/n" for run in (0, 1) for rank in (0, 1)]
RAWS = [b"", b"a", b"bb", b"\x00\xff"]

sources = st.sampled_from(SOURCES)
numbers = st.integers(1, 25)
batches = st.lists(st.tuples(sources, numbers, st.sampled_from(RAWS)), max_size=20)


def ranges(ids: set[int]) -> IdRanges:
    return IdRanges((n, n) for n in ids)


class EventLogMachine(RuleBasedStateMachine):
    """Applies every call to a real log on SQLite and to plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.url = f"sqlite:///{Path(self.folder.name) / 'log.db'}"
        self.log = EventLog.open(self.url)
        self.rows: dict[tuple[str, int], bytes] = {}
        self.lost: dict[str, set[int]] = {}
        self.changed: dict[str, float] = {}
        self.clock = 100.0

    def teardown(self) -> None:
        self.log.close()
        self.folder.cleanup()

    def stored(self, source: str) -> set[int]:
        held = {number for name, number in self.rows if name == source}
        return held | self.lost.get(source, set())

    @rule(batch=batches, step=st.integers(-3, 5))
    def append(self, batch: list[tuple[str, int, bytes]], step: int) -> None:
        self.clock += step
        duplicates = 0
        conflicts: set[tuple[str, int]] = set()
        for source, number, raw in batch:
            if (source, number) in self.rows:
                duplicates += 1
                if self.rows[source, number] != raw:
                    conflicts.add((source, number))
                continue
            self.rows[source, number] = raw
            self.lost.get(source, set()).discard(number)
            self.changed[source] = max(self.clock, self.changed.get(source, self.clock))
        records = [
            LogRecord(source, number, source.split("/")[2], "p", "n", "metrics", number, raw)
            for source, number, raw in batch
        ]
        result = self.log.append(records, self.clock)
        assert result.duplicates == duplicates
        assert sorted(result.conflicts) == sorted(conflicts), "each conflict is named once"
        assert set(result.states) == {source for source, _, _ in batch}
        for source, state in result.states.items():
            assert state.stored == ranges(self.stored(source))

    @rule(source=sources, first=numbers, length=st.integers(0, 10))
    def record_lost(self, source: str, first: int, length: int) -> None:
        state = self.log.record_lost(source, first, first + length, "trimmed", self.clock)
        if source not in self.changed:
            assert state is None
            return
        fresh = set(range(first, first + length + 1)) - self.stored(source)
        if fresh:
            self.lost.setdefault(source, set()).update(fresh)
            self.changed[source] = max(self.clock, self.changed[source])
        assert state is not None
        assert state.lost == ranges(self.lost.get(source, set()))

    @rule()
    def open_again(self) -> None:
        self.log.close()
        self.log = EventLog.open(self.url)

    @rule(source=sources, first=numbers, last=numbers, limit=st.integers(1, 5))
    def read(self, source: str, first: int, last: int, limit: int) -> None:
        wanted = sorted(
            (number, raw)
            for (name, number), raw in self.rows.items()
            if name == source and first <= number <= last
        )
        found = self.log.read(source, first, last, limit_events=limit)
        assert [(event.id, event.raw) for event in found] == wanted[:limit]

    @rule(since=st.integers(90, 130))
    def changed_since(self, since: int) -> None:
        wanted = {source for source, at in self.changed.items() if at >= since}
        assert {state.source for state in self.log.changed_since(since)} == wanted

    @invariant()
    def ranges_are_rows(self) -> None:
        for run in ("r0", "r1"):
            for state in self.log.sources(run):
                assert state.stored == ranges(self.stored(state.source))
                assert state.lost == ranges(self.lost.get(state.source, set()))
                assert state.changed_at == self.changed[state.source]

    @invariant()
    def everything_is_there_once(self) -> None:
        found = [(event.source, event.id, event.raw) for event in self.log.select(Selection())]
        assert sorted(found) == sorted((s, n, raw) for (s, n), raw in self.rows.items())
        sizes = [len(raw) for raw in self.rows.values()]
        assert self.log.count(Selection()) == (len(sizes), sum(sizes))
        assert sum(run.events for run in self.log.runs()) == len(sizes)
        assert sum(run.bytes for run in self.log.runs()) == sum(sizes)


TestEventLog = EventLogMachine.TestCase
TestEventLog.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
