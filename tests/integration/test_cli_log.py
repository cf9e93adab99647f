"""The commands that read the event log, as a person calls them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from bus.broker import EmbeddedBroker
from bus.eventlog import EventLog, LogRecord
from bus.kinds import Params
from bus.mqtt import Delivery, open_link
from bus.topics import Topics
from tests.fixtures.commands import START, Command, record, whole_run
from tests.fixtures.logrecords import source_of
from tests.fixtures.processes import Processes, until


def test_ls_shows_every_run_in_a_table_and_as_json(trainbus: Command) -> None:
    status, out, _ = trainbus("log", "ls")
    assert status == 0
    assert [word in out for word in ("whole", "holes", "completed", "running", "faces")] == [
        True
    ] * 5
    status, out, _ = trainbus("log", "ls", "--json", "--project", "digits")
    runs = {found["run"]: found for found in orjson.loads(out)}
    assert set(runs) == {"whole", "holes"}
    assert (runs["whole"]["status"], runs["whole"]["events"]) == ("completed", 18)
    assert (runs["holes"]["status"], runs["holes"]["lost"]) == ("running", 1)
    assert runs["whole"]["first_time"] == "2026-01-01T00:00:01.000000Z"


def test_ls_says_when_it_shows_only_the_latest(trainbus: Command) -> None:
    status, out, err = trainbus("log", "ls", "--limit", "1", "--json")
    assert (status, len(orjson.loads(out)), err) == (0, 1, "")
    assert "--limit shows more" in trainbus("log", "ls", "--limit", "1")[2]


def test_show_names_sources_ids_holes_and_kinds(trainbus: Command) -> None:
    status, out, _ = trainbus("log", "show", "holes", "--json")
    assert status == 0
    left, right = orjson.loads(out)["sources"]
    assert (left["rank"], left["node"], left["stored"]) == (0, "node-0", "1-3,6,8")
    assert (left["holes"], left["lost"], left["finished"]) == ("4-5,7", "", False)
    assert (right["holes"], right["lost"], right["events"]) == ("4-5", "7", 5)
    assert left["kinds"] == {"metrics": 2, "params": 1, "run_started": 1, "summary": 1}
    status, out, _ = trainbus("log", "show", "holes")
    assert status == 0
    assert "1-3, 6, 8" in out


def test_show_lists_every_event_on_demand(trainbus: Command) -> None:
    _, out, _ = trainbus("log", "show", "whole", "--events")
    assert sum("rank 0.1" in line for line in out.splitlines()) == 9
    _, out, _ = trainbus("log", "show", "whole", "--events", "--json")
    assert len(orjson.loads(out)["event_list"]) == 18


def test_a_run_is_found_by_its_name_if_that_is_clear(trainbus: Command) -> None:
    assert trainbus("log", "show", "mlp", "--project", "faces")[0] == 0
    status, _, err = trainbus("log", "show", "mlp")
    assert (status, err.count("\n")) == (2, 1)
    assert "3 runs are called 'mlp'" in err


def test_export_gives_the_exact_events_as_lines(trainbus: Command, tmp_path: Path) -> None:
    status, out, err = trainbus("log", "export", "whole", "other")
    wanted = {r.raw.decode() for r in [*whole_run("whole"), *whole_run("other", "faces")]}
    assert status == 0
    assert set(out.splitlines()) == wanted
    assert "exported 36 events" in err
    file = tmp_path / "out.jsonl"
    assert trainbus("log", "export", "whole", "-o", str(file), "--kind", "params")[1] == ""
    assert [orjson.loads(line)["type"] for line in file.read_bytes().splitlines()] == [
        "trainbus.params.v1"
    ] * 2


def test_an_event_with_line_breaks_stays_one_line(trainbus: Command, filled_log: EventLog) -> None:
    event = record("pretty", 0, 1, "params", Params("General", {"a": "x\ny"}), 0.0, "digits")
    raw = orjson.dumps(orjson.loads(event.raw), option=orjson.OPT_INDENT_2)
    with EventLog.open(filled_log.place) as again:
        fields = {name: getattr(event, name) for name in LogRecord.__slots__}
        again.append([LogRecord(**{**fields, "raw": raw})], now=1.0)
    (line,) = trainbus("log", "export", "pretty")[1].splitlines()
    assert orjson.loads(line) == orjson.loads(raw)


def test_export_takes_times(trainbus: Command) -> None:
    _, out, _ = trainbus(
        *("log", "export", "whole", "--since", str(START + 3), "--until", "2026-01-01T00:00:05Z")
    )
    assert {orjson.loads(line)["id"][-1] for line in out.splitlines()} == {"3", "4"}


def test_export_writes_metric_points_as_parquet(trainbus: Command, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'trainbus[parquet]'")
    file = tmp_path / "points.parquet"
    status, _, err = trainbus("log", "export", "whole", "--format", "parquet", "-o", str(file))
    assert (status, "exported 62 points" in err) == (0, True)
    rows = parquet.read_table(file).to_pylist()
    assert len(rows) == 2 * (5 * 3 * 2 + 1)
    losses = [row for row in rows if row["key"] == "loss0"]
    assert [row["step"] for row in losses] == list(range(15))
    assert {row["value"] for row in losses} == {0.5}
    assert losses[0]["time"].timestamp() == START
    assert all(row["value"] != row["value"] for row in rows if row["key"] == "lr")
    assert [row["step"] for row in rows if row["key"] == "accuracy"] == [None, None]
    assert list(tmp_path.glob("*.part")) == []


def test_parquet_without_pyarrow_or_a_file_is_one_clear_line(
    trainbus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "name it with --output" in trainbus("log", "export", "whole", "-f", "parquet")[2]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    status, _, err = trainbus("log", "export", "whole", "-f", "parquet", "-o", "x.parquet")
    assert (status, err.count("\n")) == (2, 1)
    assert "pip install 'trainbus[parquet]'" in err


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (("log", "show", "nobody"), 2, "no run 'nobody'"),
        (("log", "export", "whole", "--kind", "metric"), 2, "no kind 'metric'"),
        (("log", "export", "whole", "--since", "soon"), 2, "'soon' is no time"),
        (("log", "export", "whole", "-o", "/nowhere/x"), 2, "there is no folder /nowhere"),
        (("log", "ls", "--log", "sqlite:////nowhere/log.db"), 1, "there is no event log at"),
        (("log", "ls", "--log", "mysql://h/d"), 2, "not supported"),
        (("replay", "--to", "mlflow"), 2, "--run, --project or --since"),
        (("replay", "--to", "mlflow", "--run", "whole"), 2, "no group 'mlflow'"),
        (("replay", "--to", "x", "--all", "--speed", "fast"), 2, "--speed fast"),
        (("verify", "nobody"), 2, "no run 'nobody'"),
        (("verify", "whole", "--sink", "nobody"), 2, "no sink 'nobody'"),
    ],
)
def test_wrong_input_is_one_clear_line(
    trainbus: Command, arguments: tuple[str, ...], status: int, reason: str
) -> None:
    ended, out, err = trainbus(*arguments)
    assert (ended, out, err.count("\n")) == (status, "", 1)
    assert err.startswith("trainbus: ")
    assert reason in err


def test_a_dry_run_says_how_much_of_which_runs_and_needs_no_broker(
    trainbus: Command, filled_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINBUS_BROKER", "mqtt://127.0.0.1:1")
    with EventLog.open(filled_log.place) as again:
        again.register_group("mlflow", 8, now=1.0)
    status, out, _ = trainbus(*("replay", "--to", "mlflow", "--project", "digits", "--dry-run"))
    assert status == 0
    assert "would send 28 events" in out
    assert "of 2 runs to mlflow" in out
    status, _, err = trainbus("replay", "--to", "mlflow", "--run", "whole")
    assert (status, err.count("\n")) == (1, 1)
    assert "cannot connect to the broker at mqtt://127.0.0.1:1" in err


async def test_replay_sends_the_exact_events_to_the_topic_of_the_group(
    broker: EmbeddedBroker, filled_log: EventLog, processes: Processes
) -> None:
    topics, received = Topics(), list[Delivery]()

    def keep(delivery: Delivery) -> None:
        received.append(delivery)
        delivery.ack()

    async with open_link(broker.address, "reader", on_delivery=keep) as link:
        await link.subscribe([f"{topics.prefix}/replay/+/+/+/+/+", f"{topics.prefix}/events/#"])
        environ = {"TRAINBUS_LOG": filled_log.place, "TRAINBUS_BROKER": str(broker.address)}
        replay = processes.trainbus(
            *("replay", "--run", "whole", "--to", "trial", "--unregistered"), environ=environ
        )
        await until(lambda: not replay.is_running, 30, "replay ends")
        await until(lambda: len(received) >= 18, 10, "all is received")
    assert replay.wait() == 0
    assert "sent 18 events" in replay.stderr
    wanted = whole_run("whole")
    assert sorted(d.payload for d in received) == sorted(r.raw for r in wanted)
    for rank in (0, 1):
        found = [d.payload for d in received if source_of("whole", rank).encode() in d.payload]
        assert found == [r.raw for r in wanted if r.source == source_of("whole", rank)]
    assert {d.topic for d in received} == {
        topics.replay("trial", "digits", "whole", r.kind) for r in wanted
    }


def test_help_is_quick_because_commands_load_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from bus.cli.main import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit:\n"
        "    heavy = {'mlflow', 'sklearn', 'pyarrow', 'matplotlib', 'pandas'}\n"
        "    print('LOADED', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
    assert "verify" in done.stdout


def test_a_closed_pipe_ends_an_export_quietly(filled_log: EventLog) -> None:
    program = Path(sys.executable).with_name("trainbus")
    done = subprocess.run(
        ["sh", "-c", f"{program} log export whole --log {filled_log.place} | head -n 1 | wc -l"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1"
    assert "Traceback" not in done.stderr


def test_the_version_is_printed(trainbus: Command) -> None:
    status, out, _ = trainbus("--version")
    assert (status, out.startswith("trainbus ")) == (0, True)
