"""The shipper's rounds: what it sends, what it removes, what it survives.

It reads files on its event loop on purpose (some 10 ms of work), so these tests run a loop of their
own, without the watch over blocking calls.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from bus.config import Settings
from bus.errors import BrokerError
from bus.group.heartbeat import Heartbeat
from bus.idranges import IdRanges
from bus.mqtt import Link
from bus.topics import shard_of, slot_of
from publishers.shipper import sending as module
from publishers.shipper.loghealth import ShardNews
from publishers.shipper.shipper import Shipper
from tests.fixtures.roadparts import RUN, SOURCE, JournalFolder

Scene = Callable[["Bench"], Awaitable[None]]


class Broker:
    """A link that takes everything, and acknowledges when it is told to."""

    def __init__(self) -> None:
        self.is_lost = False
        self.sent: list[int] = []
        self.topics: set[str] = set()
        self.waiting: list[Callable[[], None]] = []
        self.is_refusing = False

    def send(self, topic: str, payload: bytes, on_ack: Callable[[], None]) -> None:
        if self.is_refusing:
            raise BrokerError("lost")
        self.topics.add(topic)
        self.sent.append(int(orjson.loads(payload)["id"]))
        self.waiting.append(on_ack)

    def ack(self) -> None:
        waiting, self.waiting = self.waiting, []
        for on_ack in waiting:
            on_ack()


class Bench:
    """A shipper of one spool, driven round by round."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.spool = folder / "spool"
        self.journal = JournalFolder(self.spool / "sources" / "0-1")
        self.journal.begin_segment()
        self.journal.table(1, ["loss"])
        settings = Settings.from_environment({"TRAINBUS_HOME": str(folder)})
        self.shipper = Shipper(settings, self.spool, "node-0", lambda: self.now, lambda: 2e9)
        self.broker = Broker()

    def link_up(self) -> None:
        self.broker = Broker()
        self.shipper._uplink.link = cast("Link", self.broker)
        self.shipper._on_link(True)

    def log_lives(self) -> None:
        self.shipper._uplink.health.heard(Heartbeat("m", 8), self.now)

    async def round(self) -> list[int]:
        """One round, 0.1 s after the last; what it sent, acknowledged at once."""
        self.now += 0.1
        before = len(self.broker.sent)
        await self.shipper._discover()
        await self.shipper._round(self.now)
        self.broker.ack()
        return self.broker.sent[before:]

    def stored(self, ranges: IdRanges, run: str = RUN, project: str = "digits") -> None:
        self.shipper._on_stored(project, run, {SOURCE: ranges})

    @property
    def lowest(self) -> dict[str, int]:
        return self.shipper._heartbeat().sources


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scene], None]:
    """Plays a scene with a shipper whose link is up."""

    def run(scene: Scene) -> None:
        async def main() -> None:
            bench = Bench(tmp_path)
            bench.link_up()
            try:
                await scene(bench)
            finally:
                await bench.shipper._uploads.close()

        asyncio.run(main())

    return run


def rows(bench: Bench, count: int) -> None:
    """Each becomes an event: a record stands between them."""
    for step in range(count):
        bench.journal.record("tags", {"set": {"n": str(step)}})


def test_a_run_is_shipped_confirmed_and_removed(play: Callable[[Scene], None]) -> None:
    async def scene(bench: Bench) -> None:
        rows(bench, 2)
        bench.journal.end()
        assert await bench.round() == [1, 2, 3]
        assert bench.lowest == {SOURCE: 1}
        bench.stored(IdRanges([(1, 2)]))
        await bench.round()
        assert bench.lowest == {SOURCE: 3}
        bench.stored(IdRanges([(1, 3)]))
        await bench.round()
        assert list((bench.spool / "sources").iterdir()) == []
        assert (bench.shipper.published, bench.shipper.stored) == (3, 3)

    play(scene)


def test_a_full_window_never_keeps_what_would_empty_it(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNSTORED_BYTES_WITHOUT_LOG", 20_000)
    monkeypatch.setattr(module, "UNSTORED_BYTES", 4_000)

    async def scene(bench: Bench) -> None:
        rows(bench, 60)
        sent = await bench.round()
        assert 5 < len(sent) < 60
        assert await bench.round() == []
        # All of it was lost with the broker; the log comes, and its window is smaller.
        bench.log_lives()
        news = ShardNews(shard_of(slot_of(RUN), 8), 8, is_new_session=True, is_idle=False)
        bench.now += 1.0
        bench.shipper._on_shard_news(news, bench.now)
        assert await bench.round() == sent
        bench.stored(IdRanges([(1, sent[-1])]))
        for _ in range(100):
            bench.log_lives()
            if (more := await bench.round()) and more[-1] == 60:
                break
            bench.stored(IdRanges([(1, bench.broker.sent[-1])]))
        assert bench.broker.sent[-1] == 60

    play(scene)


def test_a_shipper_that_finds_much_unconfirmed_asks_after_it(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "UNSTORED_BYTES", 4_000)

    async def scene(bench: Bench) -> None:
        rows(bench, 60)
        await bench.round()
        for active in bench.shipper._sources.values():
            active.journal.close()
        settings = Settings.from_environment({"TRAINBUS_HOME": str(tmp_path)})
        bench.shipper = Shipper(settings, bench.spool, "node-0", lambda: bench.now, lambda: 2e9)
        bench.link_up()
        bench.log_lives()
        assert await bench.round() == [60]
        bench.stored(IdRanges([(60, 60)]))
        sent: list[int] = []
        while more := await bench.round():
            sent += more
            bench.stored(IdRanges([(1, sent[-1]), (60, 60)]))
        # The journal was abandoned, and ended: that is what comes last.
        assert sent[:59] == list(range(1, 60))

    play(scene)


def test_an_event_that_can_no_longer_be_made_does_not_hold_up_the_rest(
    play: Callable[[Scene], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(bench: Bench) -> None:
        rows(bench, 1)
        bench.journal.end()
        assert await bench.round() == [1, 2]
        raw = bench.journal.path.read_bytes()
        at = raw.index(b'"tags"')
        bench.journal.path.write_bytes(raw[:at] + b"#" + raw[at + 1 :])
        bench.stored(IdRanges([(2, 2)]))
        assert await bench.round() == []
        assert "event 1 is lost" in caplog.text
        # The log is told that nothing below 2 will come, until it says that it knows.
        assert bench.lowest == {SOURCE: 2}
        assert bench.shipper.waiting == 1
        bench.stored(IdRanges([(1, 2)]))
        await bench.round()
        assert list((bench.spool / "sources").iterdir()) == []

    play(scene)


@pytest.mark.parametrize(("project", "run"), [("digits", "r2"), ("other", RUN)])
def test_an_answer_on_a_topic_that_is_not_the_runs_is_not_believed(
    play: Callable[[Scene], None], project: str, run: str
) -> None:
    async def scene(bench: Bench) -> None:
        rows(bench, 1)
        await bench.round()
        bench.stored(IdRanges([(1, 1)]), run, project)
        assert bench.shipper.waiting == 1

    play(scene)


def test_a_link_that_is_lost_gets_the_unacknowledged_again(play: Callable[[Scene], None]) -> None:
    async def scene(bench: Bench) -> None:
        rows(bench, 2)
        bench.now += 0.1
        await bench.shipper._discover()
        await bench.shipper._round(bench.now)
        late = bench.broker
        bench.shipper._uplink.link = None
        bench.shipper._on_link(False)
        late.ack()  # too late to count
        bench.link_up()
        assert await bench.round() == [1, 2]

    play(scene)


def test_a_send_that_is_refused_is_tried_again(play: Callable[[Scene], None]) -> None:
    async def scene(bench: Bench) -> None:
        rows(bench, 1)
        bench.broker.is_refusing = True
        assert await bench.round() == []
        bench.broker.is_refusing = False
        assert await bench.round() == [1]

    play(scene)


def test_a_full_disk_is_said_once_and_waited_out(
    play: Callable[[Scene], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(bench: Bench) -> None:
        rows(bench, 1)

        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("publishers.shipper.cuts.CutsFile.append", refuse)
            for _ in range(5):
                assert await bench.round() == []
        assert caplog.text.count("No space left") == 1
        assert await bench.round() == [1]

    play(scene)


def test_a_spool_that_is_removed_is_said_and_forgotten(
    play: Callable[[Scene], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(bench: Bench) -> None:
        rows(bench, 1)
        await bench.round()
        shutil.rmtree(bench.journal.folder)
        assert bench.lowest == {SOURCE: 1}  # the heartbeat goes on
        await bench.round()
        assert "was removed with 1 events not confirmed" in caplog.text
        assert bench.shipper.waiting == 0

    play(scene)


def test_what_is_no_journal_is_said_once_and_left_alone(
    play: Callable[[Scene], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(bench: Bench) -> None:
        (bench.spool / "sources" / "a-file").write_text("x")
        (bench.spool / "sources" / "empty").mkdir()
        foreign = JournalFolder(bench.spool / "sources" / "foreign", "r2")
        foreign.begin_segment(source="/of/another/kind")
        rows(bench, 1)
        for _ in range(5):
            await bench.round()
        assert bench.broker.sent == [1]
        for name in ("a-file", "empty", "foreign"):
            assert sum(name in record.getMessage() for record in caplog.records) == 1

    play(scene)


def test_what_a_killed_shipper_was_removing_is_removed(play: Callable[[Scene], None]) -> None:
    async def scene(bench: Bench) -> None:
        left = bench.spool / "sources" / ".0-0.done"
        left.mkdir()
        (left / "000001.journal").touch()
        await bench.round()
        assert not left.exists()

    play(scene)


def test_two_nodes_with_one_path_have_client_ids_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def note(address: object, client_id: str, **_: Any) -> None:
        seen.append(client_id)
        raise BrokerError("no")

    monkeypatch.setattr("publishers.shipper.uplink.open_link", note)

    async def main() -> None:
        settings = Settings.from_environment({"TRAINBUS_HOME": str(tmp_path)})
        for node in ("node-0", "node-1"):
            task = asyncio.create_task(Shipper(settings, tmp_path, node)._uplink.run())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert len(seen) == len(set(seen)) == 2


def test_an_error_of_ours_on_the_link_ends_the_shipper_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("publishers.shipper.uplink.Uplink._hold", fail)

    async def main() -> None:
        settings = Settings.from_environment({"TRAINBUS_HOME": str(tmp_path)})
        await Shipper(settings, tmp_path / "spool", "node").run(asyncio.Event())

    with pytest.raises(RuntimeError, match="a bug"):
        asyncio.run(main())
