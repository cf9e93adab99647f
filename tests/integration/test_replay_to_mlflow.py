"""Replay to a real MLflow worker: it writes what it has not, and once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from bus.broker import EmbeddedBroker
from bus.eventlog import EventLog
from bus.group.heartbeat import Heartbeat, decode_heartbeat
from bus.mqtt import Delivery, open_link
from bus.topics import Topics
from tests.fixtures.commands import whole_run
from tests.fixtures.processes import Process, Processes, until

SHARDS = list(range(8))


def store_old_run(url: str) -> None:
    """Older than the group, which therefore does not catch up on it by itself."""
    with EventLog.open(url) as log:
        log.append(whole_run("old"), now=1.0)


@pytest.mark.slow
async def test_a_run_replayed_twice_is_in_mlflow_once(
    mosquitto: EmbeddedBroker, tmp_path: Path, processes: Processes
) -> None:
    environ = {
        "TRAINBUS_BROKER": str(mosquitto.address),
        "TRAINBUS_LOG": f"sqlite:///{tmp_path / 'log.db'}",
        "TRAINBUS_HOME": str(tmp_path / "home"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
    }
    heartbeats: list[Heartbeat] = []

    async def ended(process: Process) -> Process:
        await until(lambda: not process.is_running, 60, process.name)
        return process

    async def receipt() -> Any:
        verify = processes.trainbus("verify", "old", "--json", environ=environ)
        return orjson.loads((await ended(verify)).stdout)

    async def replay() -> None:
        command = processes.trainbus("replay", "--run", "old", "--to", "mlflow", environ=environ)
        assert (await ended(command)).wait() == 0

    def is_settled() -> bool:
        return heartbeats[-1:] != [] and sorted(heartbeats[-1].idle) == SHARDS

    def keep(delivery: Delivery) -> None:
        heartbeats.append(decode_heartbeat(delivery.payload))

    await asyncio.to_thread(store_old_run, environ["TRAINBUS_LOG"])
    async with open_link(mosquitto.address, "reader", on_delivery=keep) as link:
        await link.subscribe([Topics().members_filter("mlflow")], qos=0)
        processes.trainbus("worker", "mlflow", "--heartbeat", "0.3", environ=environ)
        await until(is_settled, 60, "the worker owns all shards")
        before = await receipt()
        assert (before["published"], before["sinks"]["mlflow"]["missing"]) == (18, 18)

        await replay()
        await until(lambda: heartbeats[-1].report["delivered"] == 18, 60, "it is delivered")
        first = (await receipt())["sinks"]["mlflow"]
        assert (first["delivered"], first["missing"]) == (18, 0)
        # Of 62 points 16 are the same on both ranks: lr and accuracy, at the same times.
        assert first["points"] == {"expected": 46, "found": 46}

        await replay()
        heartbeats.clear()
        await until(is_settled, 60, "the second replay is dealt with")
        assert heartbeats[-1].report["delivered"] == 18
        assert (await receipt())["sinks"]["mlflow"] == first
