"""The real client of HUB works against the stand-in; and what the stand-in enforces."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from subscribers.hub.standin.models import Models
from tests.fixtures.hub import KEY, HubServer
from tests.fixtures.hubprocess import HubProcess
from tests.fixtures.missing import missing

WIRE = json.loads((Path(__file__).parents[1] / "data" / "wire" / "hub.json").read_text())

_PROGRAM = """
import json, sys, time
from hub_sdk import HUBClient

path = sys.argv[1]
client = HUBClient()
model = client.model()
model.create_model(json.loads(sys.argv[2]))
model.start_heartbeat(interval=60)
model.upload_metrics({0: json.dumps({"train/box_loss": 0.5}), 1: json.dumps({"a": 1})})
model.upload_model(0, path, is_best=True)
resumed = client.model(model.id)
told = {"authenticated": client.authenticated, "id": model.id, "data": model.data,
        "resumable": resumed.is_resumable(), "best": resumed.has_best_weights()}
model.upload_model(1, path, map=0.25, final=True)
deadline = time.monotonic() + 20
while model.hub_client.agent_id is None and time.monotonic() < deadline:
    time.sleep(0.05)
model.stop_heartbeat()
told |= {"trained": client.model(model.id).is_trained(), "agent": model.hub_client.agent_id}
print("told", json.dumps(told))
"""


async def test_the_real_client_trains_a_model(hub_server: HubServer, tmp_path: Path) -> None:
    if importlib.util.find_spec("hub_sdk") is None:
        missing("hub_sdk", "pip install hub-sdk==0.0.25")
    weights = tmp_path / "last.pt"
    weights.write_bytes(os.urandom(100_000))
    body = next(one["body"] for one in WIRE["requests"] if one["path"] == "/v1/models")
    environ = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "ULTRALYTICS_HUB_API": hub_server.url,
        "HUB_API_KEY": KEY,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM, str(weights), json.dumps(body)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environ,
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 60)
    (line,) = [one for one in printed.decode().splitlines() if one.startswith("told ")]
    told = json.loads(line.removeprefix("told "))
    (model,) = hub_server.models
    assert told["id"] == model.id
    assert told["data"]["config"] == body["config"] | {"device": "cpu", "cache": "False"}
    flags = ("authenticated", "resumable", "best", "trained")
    assert [told[name] for name in flags] == [True] * 4
    assert told["agent"] == "agent-1" == model.agents[0]
    assert model.metrics == {"0": {"train/box_loss": 0.5}, "1": {"a": 1}}
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert model.uploads == [
        {"type": "epoch", "epoch": 0, "isBest": True, "size": 100_000, "sha256": digest},
        {"type": "final", "epoch": 1, "map": 0.25, "size": 100_000, "sha256": digest},
    ]
    assert {one.status for one in hub_server.stand_in.received} == {200}


@pytest.fixture
async def ask(hub_server: HubServer) -> AsyncIterator[Any]:
    """Makes requests as nobody should, and returns their status."""
    async with aiohttp.ClientSession(hub_server.url) as session:

        async def send(path: str, key: str = KEY, method: str = "POST", **body: Any) -> int:
            headers = {"x-api-key": key} if key else {}
            async with session.request(method, path, headers=headers, **body) as answer:
                assert answer.status == 200 or (await answer.json())["message"]
                return answer.status

        yield send


async def test_a_key_and_a_content_type_are_asked_for(hub_server: HubServer, ask: Any) -> None:
    assert await ask("/v1/auth") == 200
    assert await ask("/v1/auth", key="") == 401
    hub_server.stand_in.keys = {"other"}
    assert await ask("/v1/auth") == 401
    hub_server.stand_in.keys = set()
    model = hub_server.stand_in.models.add({})
    assert await ask("/v1/models", data=b"{}") == 415
    assert await ask(f"/v1/models/{model.id}/upload", json={}) == 415


async def test_a_model_has_to_exist(ask: Any) -> None:
    for path in ("/v1/models/nobody", "/v1/models/nobody/upload", "/v1/models/..%2f/upload"):
        assert await ask(path, json={"metrics": {}, "type": "metrics"}) == 404
    assert await ask("/v1/models/nobody", method="GET") == 404
    assert await ask("/v1/agent/heartbeat/models/nobody", json={}) == 404


@pytest.mark.parametrize(
    "change",
    [
        {"config": {}},
        {"config": None},
        {"dataset": {}},
        {"lineage": {"architecture": {"name": "x"}}},
        {"lineage": {"architecture": {}, "parent": {}}},
        {"lineage": {"architecture": {"name": "x"}, "parent": {"name": 7}}},
        {"meta": {}},
    ],
)
async def test_a_model_is_made_of_all_its_fields(ask: Any, change: dict[str, Any]) -> None:
    body = next(one["body"] for one in WIRE["requests"] if one["path"] == "/v1/models")
    assert await ask("/v1/models", json=body) == 200
    assert await ask("/v1/models", json={**body, **change}) == 400
    assert await ask("/v1/models", json=[]) == 400


@pytest.mark.parametrize(
    "body",
    [
        {"metrics": {"0": "{}"}},
        {"metrics": {"0": {}}, "type": "metrics"},
        {"metrics": {"a": "{}"}, "type": "metrics"},
        {"metrics": {"0": '{"a": NaN}'}, "type": "metrics"},
        {"metrics": {"0": "[]"}, "type": "metrics"},
        {"metrics": [], "type": "metrics"},
        7,
    ],
)
async def test_metrics_are_json_texts_by_epoch(
    hub_server: HubServer, ask: Any, body: object
) -> None:
    model = hub_server.stand_in.models.add({})
    assert await ask(f"/v1/models/{model.id}", json=body) == 400
    assert model.metrics == {}


@pytest.mark.parametrize(
    ("fields", "file", "status"),
    [
        ({"epoch": "1", "type": "epoch", "isBest": "True"}, "last.pt", 200),
        ({"epoch": "1", "type": "final", "map": "0.5"}, "best.pt", 200),
        ({"epoch": "1", "type": "epoch", "isBest": "true"}, "last.pt", 400),
        ({"epoch": "1", "type": "epoch"}, "last.pt", 400),
        ({"epoch": "one", "type": "epoch", "isBest": "True"}, "last.pt", 400),
        ({"epoch": "1", "type": "other", "isBest": "True"}, "last.pt", 400),
        ({"epoch": "1", "type": "final", "map": "nan"}, "best.pt", 400),
        ({"epoch": "1", "type": "final"}, "best.pt", 400),
        ({"epoch": "1", "type": "final", "map": "0.5"}, "last.pt", 400),
        ({"epoch": "1", "type": "epoch", "isBest": "True"}, "other.pt", 400),
    ],
)
async def test_an_upload_says_what_it_is(
    hub_server: HubServer, ask: Any, fields: dict[str, str], file: str, status: int
) -> None:
    model = hub_server.stand_in.models.add({})
    form = aiohttp.FormData(fields)
    form.add_field(file, b"bytes", filename=file)
    assert await ask(f"/v1/models/{model.id}/upload", data=form) == status
    assert len(model.uploads) == (status == 200)


async def test_limits_are_counted_and_enforced_when_asked(hub_server: HubServer, ask: Any) -> None:
    now = 100.0
    hub_server.stand_in.models = Models(enforces_limits=True, clock=lambda: now)
    model = hub_server.stand_in.models.add({})
    body = {"metrics": {"0": "{}"}, "type": "metrics"}
    statuses = []
    for now in (100.0, 101.0, 102.9, 103.0, 106.1):  # noqa: B007  # the clock reads it
        statuses.append(await ask(f"/v1/models/{model.id}", json=body))
    assert statuses == [200, 429, 200, 429, 200]
    assert model.too_soon == {"metrics": 2}


def test_the_stand_in_keeps_its_models_over_a_kill(tmp_path: Path) -> None:
    server = HubProcess(tmp_path)
    server.start()
    try:
        body = next(one["body"] for one in WIRE["requests"] if one["path"] == "/v1/models")
        request = urllib.request.Request(
            f"{server.url}/v1/models",
            json.dumps(body).encode(),
            {"x-api-key": KEY, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            model = json.load(answer)["data"]["id"]
        server.kill()
        server.start()
        with urllib.request.urlopen(server.url, timeout=10) as answer:
            assert [one["id"] for one in json.load(answer)["models"]] == [model]
        assert KEY not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    finally:
        server.kill()
