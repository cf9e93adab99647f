"""Our requests, field by field, beside those that Platform's own client sent.

The recorded bodies are cut at 1800 characters; what is there of them is compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from bus.events import Event
from bus.kinds import Console, Metrics, Number, Params, Plot, Summary, System, Table
from tests.fixtures.feed import START, Feed
from tests.fixtures.platform import PlatformServer, Received, running_platform
from tests.integration.platform_parts import Training, make_sink

_WIRE = orjson.loads((Path(__file__).parents[1] / "data/wire/platform.json").read_bytes())
_EVENTS = "/api/webhooks/training/metrics"

# What the recorded client was given, as far as it is not taken from the recording itself.
_PROJECT, _NAME = "/data/runs", "hub"


def recorded(event: str) -> list[dict[str, Any]]:
    bodies = [one["body"] for one in _WIRE["requests"] if one["path"] == _EVENTS]
    return [body for body in bodies if body.get("event") == event]


def cut(event: str) -> str:
    """What is there of a body that was cut: the first of its event."""
    texts = [
        one["body"]["truncated_text"]
        for one in _WIRE["requests"]
        if one["path"] == _EVENTS and "truncated_text" in one["body"]
    ]
    return next(str(text) for text in texts if f'"event": "{event}"' in text)


def recorded_args() -> dict[str, str]:
    """The arguments of the recorded training, up to where the record is cut."""
    _, _, text = cut("training_started").partition('"trainArgs": {')
    return dict(re.findall(r'"([^"]+)": "([^"]*)"', text))


def recorded_results() -> tuple[dict[str, Any], list[str]]:
    _, _, text = cut("training_complete").partition('"results": ')
    results, _, rest = text.partition(', "classNames": ')
    names, _, plots = rest.partition(', "plots": [')
    assert plots.startswith('{"type": "pr_curve", "x": [0.0, 0.01')
    return orjson.loads(results), orjson.loads(names)


def value_of(text: str) -> Any:
    """An argument as the training has it: the wire has texts only."""
    known = {"None": None, "True": True, "False": False}
    if text in known:
        return known[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def readings(system: dict[str, Any]) -> dict[str, Number]:
    flat: dict[str, Number] = {"cpu.percent": system["cpu"], "memory.percent": system["ram"]}
    (disk,) = system["disk"]
    flat |= {f"disk.{name}": value for name, value in disk.items() if name != "mount"}
    for group in ("disk_io", "network"):
        flat |= {f"{group}.{name}": value for name, value in system[group].items()}
    return flat


def epoch_events(feed: Feed, data: dict[str, Any]) -> list[Event]:
    info = data.get("modelInfo", {})
    names = {"parameters": "parameters", "gflops": "GFLOPs", "speedMs": "speed_PyTorch(ms)"}
    values = {
        **data["metrics"],
        **{f"model/{names[name]}": value for name, value in info.items()},
        "fitness": data["fitness"],
        "best_fitness": data["best_fitness"],
    }
    row = [START + data["epoch"], data["epoch"], *values.values()]
    return [
        feed.event("system", System(readings(data["system"]))),
        feed.event("metrics", Metrics([Table(list(values), [row])])),
    ]


@pytest.fixture
def platform() -> Iterator[PlatformServer]:
    with running_platform() as server:
        yield server
        assert server.refused == []


@pytest.fixture
async def sent(platform: PlatformServer, tmp_path: Path) -> list[Received]:
    """The requests of a training like the recorded one."""
    training = Training(tmp_path / "training", project=_PROJECT)
    training.ref = type(training.ref)(_PROJECT, "r1", _NAME)
    feed = training.feed
    results, class_names = recorded_results()
    (console,) = recorded("console_output")
    args = {name: value_of(text) for name, text in recorded_args().items()}
    events = [
        feed.started(config={"names": class_names}),
        feed.event("params", Params("General", args)),
        feed.event("console", Console(console["data"]["content"].split("\n"))),
    ]
    for body in recorded("epoch_end"):
        events += epoch_events(feed, body["data"])
    events.append(training.checkpoint(2, b"x" * 1000, is_best=True, is_final=True))
    training.folder.joinpath("pr.json").write_text('{"type": "pr_curve", "x": [0.0], "y": [[0.0]]}')
    blob, url = feed.stored(training.store, training.folder / "pr.json")
    events.append(feed.event("plot", Plot("pr", "curve", blob), url))
    events.append(feed.event("summary", Summary(results["metrics"])))
    sink = make_sink(platform, tmp_path)
    await sink.open_run(training.ref)
    await training.write(sink, [*events, feed.finished()])
    await sink.close()
    return platform.received


def ours(sent: list[Received], event: str) -> list[dict[str, Any]]:
    return [one.body for one in sent if one.body.get("event") == event]


def test_the_order_of_requests_is_that_of_the_recording(sent: list[Received]) -> None:
    def kinds(requests: list[tuple[str, Any]]) -> list[str]:
        found = []
        for path, body in requests:
            text = body.get("truncated_text", "") if isinstance(body, dict) else ""
            known = re.search(r'"event": ?"(\w+)"', text)
            name = known[1] if known else body.get("event") if isinstance(body, dict) else None
            found.append(name or path.split("/")[-1][:3])
        return found

    # The last request of the recording is of another, newer client.
    theirs = kinds([(one["path"], one["body"]) for one in _WIRE["requests"][:-1]])
    mine = kinds([(one.path, one.body) for one in sent if one.method == "POST"])
    # The newer client tells of the upload before the end; the recorded one has no event for it.
    assert mine == [*theirs[:5], "upl", "checkpoint_saved", "training_complete"]
    assert theirs[5:] == ["upl", "put", "training_complete"]


def test_a_training_begins_as_recorded(sent: list[Received]) -> None:
    (body,) = ours(sent, "training_started")
    assert list(body) == ["event", "project", "name", "data"]
    assert (body["project"], body["name"]) == ("/data-runs", "hub")
    args = recorded_args()
    assert len(args) > 80
    assert {name: body["data"]["trainArgs"].get(name) for name in args} == args
    assert body["data"]["epochs"] == 3
    assert body["data"]["device"] == "cpu"


def test_console_output_is_as_recorded(sent: list[Received]) -> None:
    assert ours(sent, "console_output") == recorded("console_output")


def test_epochs_are_as_recorded(sent: list[Received]) -> None:
    assert ours(sent, "epoch_end") == recorded("epoch_end")


def test_an_upload_is_as_recorded(sent: list[Received]) -> None:
    (asked,) = (one.body for one in sent if one.path.endswith("/models/upload"))
    (theirs,) = (one for one in _WIRE["requests"] if one["path"].endswith("/models/upload"))
    run_id = asked.pop("runId")  # newer clients send it too
    assert asked == theirs["body"]
    (put,) = (one for one in sent if one.method == "PUT")
    (recorded_put,) = (one for one in _WIRE["requests"] if one["method"] == "PUT")
    for name, value in recorded_put["headers"].items():
        assert put.headers[name] == value
    assert put.headers["Content-Length"] == "1000"
    assert "Authorization" not in put.headers
    (saved,) = ours(sent, "checkpoint_saved")
    assert saved["data"].keys() == {"runId", "modelPath", "uploadPath"}
    assert saved["data"]["runId"] == run_id


def test_a_training_ends_as_recorded(sent: list[Received]) -> None:
    (body,) = ours(sent, "training_complete")
    results, class_names = recorded_results()
    # Where the bytes are, and how many, is the stand-in's.
    for name in ("modelPath", "modelSize"):
        assert type(body["data"]["results"].pop(name)) is type(results.pop(name))
    # Every epoch of the recording is as good as the others: theirs calls the last one the best.
    assert body["data"]["results"].pop("bestEpoch") in range(results.pop("bestEpoch") + 1)
    assert body["data"]["results"] == results
    assert body["data"]["classNames"] == class_names
    assert body["data"]["plots"] == [{"type": "pr_curve", "x": [0.0], "y": [[0.0]]}]
    assert body["data"]["runId"] == 7


def test_every_request_carries_the_key_and_the_model_as_recorded(sent: list[Received]) -> None:
    theirs = _WIRE["requests"][1]["headers"]
    for one in sent:
        if one.method == "POST":
            assert one.headers["Content-Type"] == theirs["Content-Type"]
            assert re.fullmatch(r"Bearer ul_[0-9a-f]{40}", one.headers["Authorization"])
    assert {one.body.get("modelId") for one in sent[1:] if one.method == "POST"} == {"m1"}
