"""Our requests beside those that a real training sent to HUB, field by field."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from subscribers.hub.v1.requests import (
    checkpoint_form,
    create_body,
    final_form,
    heartbeat_body,
    metrics_body,
)
from tests.fixtures.hub import ARGUMENTS

WIRE = json.loads((Path(__file__).parents[1] / "data" / "wire" / "hub.json").read_text())
BOUNDARY = "0123456789abcdef" * 2


def wire(path: str, number: int = 0) -> dict[str, Any]:
    """The captured requests whose path ends so."""
    found = [one for one in WIRE["requests"] if one["path"].endswith(path)]
    return dict(found[number])


def test_a_new_model() -> None:
    body = create_body(ARGUMENTS, "yolo11n.yaml", "exp")
    assert body == wire("/v1/models")["body"]
    assert json.dumps(list(body)) == json.dumps(list(wire("/v1/models")["body"]))


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_metrics(epoch: int) -> None:
    captured = [one for one in WIRE["requests"] if (one["body"] or {}).get("type") == "metrics"]
    expected = captured[epoch]["body"]
    values = json.loads(expected["metrics"][str(epoch)])
    body = metrics_body({epoch: values})
    assert body == expected
    # To the last blank: the text within is what HUB keeps.
    assert len(json.dumps(body)) == captured[epoch]["content_length"]


def test_a_heartbeat() -> None:
    captured = wire("/v1/agent/heartbeat/models/AAAAAAAAAAAAAAAAAAAA")["body"]
    body = heartbeat_body(None)
    assert list(body) == list(captured)
    assert body["agentId"] == captured["agentId"]
    version = re.compile(r"\d+\.\d+\.\d+\w*")
    assert version.sub("V", body["agent"]) == version.sub("V", captured["agent"])
    assert heartbeat_body("agent-1")["agentId"] == "agent-1"


def test_a_final_model() -> None:
    captured = wire("/upload")
    form = final_form(2, 0.0, BOUNDARY)
    names = re.findall(r'name="([^"]+)"', captured["body"]["truncated_text"])
    sent = re.findall(rb'form-data; name="([^"]+)"', form.head)
    # The capture names only parts whose text follows within a few bytes.
    assert [name for name in (one.decode() for one in sent) if name in names] == [
        name for name in dict.fromkeys(names) if name != "filename"
    ]
    # A file of 5,411,610 bytes made a body of this size, so nothing in it is longer or missing.
    assert len(form.head) + 5_411_610 + len(form.tail) == captured["content_length"]
    assert form.content_type == captured["headers"]["Content-Type"].partition("=")[0] + (
        f"={BOUNDARY}"
    )
    for part in (b'"epoch"\r\n\r\n2\r\n', b'"type"\r\n\r\nfinal\r\n', b'"map"\r\n\r\n0.0\r\n'):
        assert part in form.head
    assert form.head.endswith(b'name="best.pt"; filename="best.pt"\r\n\r\n')


@pytest.mark.parametrize(("is_best", "text"), [(True, b"True"), (False, b"False")])
def test_a_checkpoint(is_best: bool, text: bytes) -> None:
    form = checkpoint_form(7, is_best, BOUNDARY)
    assert b'name="epoch"\r\n\r\n7\r\n' in form.head
    assert b'name="type"\r\n\r\nepoch\r\n' in form.head
    assert b'name="isBest"\r\n\r\n' + text + b"\r\n" in form.head
    assert form.head.endswith(b'name="last.pt"; filename="last.pt"\r\n\r\n')
    assert form.tail == f"\r\n--{BOUNDARY}--\r\n".encode()


def test_what_is_not_finite_is_null() -> None:
    body = metrics_body({3: {"a": math.nan, "b": -math.inf, "c": None, "d": 1}})
    assert json.loads(body["metrics"]["3"]) == {"a": None, "b": None, "c": None, "d": 1}


def test_a_model_that_begins_from_weights_has_a_parent() -> None:
    lineage = create_body({}, "yolo11n.pt", "exp")["lineage"]
    assert lineage == {"architecture": {"name": "yolo11n"}, "parent": {"name": "yolo11n.pt"}}
