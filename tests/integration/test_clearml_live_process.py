"""What the live ClearML sink does to the process it lives in, and how that process ends."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fixtures.processes import Process, Processes
from tests.integration.clearml_feed import QUIET

if TYPE_CHECKING:
    from tests.fixtures.clearml.server import ClearmlServer

pytestmark = QUIET

SCRIPT = """
import asyncio, json, os, signal, sys, threading
from bus.config import Settings
from bus.errors import RetryableSinkError
from bus.sinks import load_sink
from tests.fixtures.feed import Feed, marks_of

def hooks():
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    handlers = [str(signal.getsignal(number)) for number in signals]
    return [*handlers, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__,
            sys.excepthook is sys.__excepthook__]

async def main():
    sink = load_sink("clearml", Settings.from_environment(os.environ), os.environ)
    refused = ""
    for number in range(3):
        feed = Feed(f"run {number}", "digits")
        events = [feed.started(), feed.metrics(["loss"], range(10)), feed.finished()]
        try:
            await sink.write(feed.ref, events, marks_of(events))
        except RetryableSinkError as error:
            refused = str(error)
    await sink.close()
    threads = {thread.name.rpartition("_")[0] for thread in threading.enumerate()[1:]}
    return {"threads": sorted(threads), "refused": refused}

before = hooks()
result = asyncio.run(main())
print(json.dumps({"same": before == hooks(), **result}))
"""


def run(processes: Processes, server: ClearmlServer, home: Path) -> tuple[Process, float]:
    environ = {
        **server.environ,
        "TRAINBUS_HOME": str(home),
        "TRAINBUS_CLEARML_TIMEOUT": "1",
        "CLEARML_CONFIG_FILE": str(home / "none"),
        # Whatever is not the stand-in is out of reach, and a request to it would show.
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }
    start = time.monotonic()
    process = processes.python("-c", SCRIPT, environ=environ, name="sink")
    assert process.wait(60) == 0, process.printed()
    return process, time.monotonic() - start


def said(process: Process) -> dict[str, Any]:
    last = [line for line in process.printed().splitlines() if line.startswith("{")][-1]
    result: dict[str, Any] = json.loads(last)
    return result


def test_it_takes_no_signal_no_stream_and_starts_only_its_own_threads(
    processes: Processes, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    process, _ = run(processes, clearml_server, tmp_path)
    result = said(process)
    assert result["same"]
    assert set(result["threads"]) <= {"clearml-call", "clearml-upload", "asyncio"}
    assert result["refused"] == ""
    assert [task["status"] for task in clearml_server.tasks()] == ["completed"] * 3
    services = {request.endpoint.partition(".")[0] for request in clearml_server.requests}
    assert services == {"auth", "projects", "tasks", "events"}


def test_a_process_whose_server_hangs_ends_all_the_same(
    processes: Processes, clearml_server: ClearmlServer, tmp_path: Path
) -> None:
    clearml_server.faults.hang("events.*")
    process, seconds = run(processes, clearml_server, tmp_path)
    assert "timed out" in said(process)["refused"]
    assert seconds < 30
