"""The generated schemas accept what we write and refuse what we refuse."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from typer.testing import CliRunner

from bus.errors import EventError
from bus.events import encode
from bus.kinds import KINDS
from bus.schema import asyncapi_document, event_schema, events_schema
from bus.topics import Topics
from tests.fixtures.events import EXAMPLES, example, whole_events

ANY = jsonschema.Draft7Validator(events_schema())
DOCUMENT = asyncapi_document()


def as_json(kind: str, **changes: Any) -> dict[str, Any]:
    return {**orjson.loads(encode(example(kind))), **changes}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_schema_of_a_kind_is_sound_and_accepts_its_events_alone(kind: str) -> None:
    schema = event_schema(kind)
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    validator.validate(as_json(kind))
    for other in KINDS.keys() - {kind}:
        assert not validator.is_valid(as_json(other))


@given(whole_events())
def test_any_event_fits_the_schema_of_all_kinds(event: Any) -> None:
    ANY.validate(orjson.loads(encode(event)))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("tags", {"specversion": "0.3"}),
        ("tags", {"type": "trainbus.nothing.v1"}),
        ("tags", {"id": "42"}),
        ("tags", {"project": 1}),
        ("tags", {"data": {"set": {"a": 1}}}),
        ("metrics", {"data": {"tables": [{"keys": ["a"], "rows": [[1, 1, "nan"]]}]}}),
        ("run_finished", {"data": {"status": "done", "last_id": 1}}),
        ("checkpoint", {"data": {"blob": {"name": "a", "size": -1, "sha256": "0" * 64}}}),
    ],
)
def test_a_malformed_event_does_not_fit(kind: str, changes: dict[str, Any]) -> None:
    assert not ANY.is_valid(as_json(kind, **changes))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if hasattr(EXAMPLES[kind], "blob")])
def test_a_kind_with_bytes_needs_its_reference(kind: str) -> None:
    event = as_json(kind)
    del event["dataref"]
    assert not ANY.is_valid(event)


def test_the_schema_of_a_kind_holds_only_what_it_needs() -> None:
    assert set(event_schema("metrics")["definitions"]) == {"Metrics", "NonFinite", "Table"}


def test_an_unknown_kind_has_no_schema() -> None:
    with pytest.raises(EventError, match="no kind 'nothing'"):
        event_schema("nothing")


def test_the_descriptions_come_from_the_docstrings() -> None:
    blob = events_schema()["definitions"]["Blob"]
    assert blob["properties"]["size"]["description"] == "Bytes in all."
    checkpoint = events_schema()["definitions"]["Checkpoint"]
    assert checkpoint["description"] == "Weights during or after training."
    assert "Attributes" not in str(events_schema())


def test_every_reference_in_the_asyncapi_document_leads_somewhere() -> None:
    for reference in re.findall(r"'\$ref': '([^']+)'", str(DOCUMENT)):
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            assert step in place, reference
            place = place[step]


def test_the_asyncapi_document_has_a_message_for_every_kind_in_both_channels() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    for channel in ("events", "replay"):
        assert set(DOCUMENT["channels"][channel]["messages"]) == set(KINDS)


def test_the_addresses_in_the_asyncapi_document_are_the_topics() -> None:
    topics = Topics("team/v1")
    channels = asyncapi_document("team/v1")["channels"]
    real = {
        "events": topics.event("p", "r", "tags"),
        "replay": topics.replay("g", "p", "r", "tags"),
        "stored": topics.stored("p", "r"),
        "nodes": topics.node("n", "s"),
    }
    assert channels.keys() == real.keys()
    for name, topic in real.items():
        address = re.sub(r"{\w+}", "[^/]+", channels[name]["address"])
        assert re.fullmatch(address, topic)
        named = re.findall(r"{(\w+)}", channels[name]["address"])
        assert list(channels[name]["parameters"]) == named


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["metrics"], event_schema("metrics")),
        ([], events_schema()),
        (["--asyncapi"], asyncapi_document()),
    ],
)
def test_the_command_prints_json(
    arguments: list[str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRAINBUS_PREFIX", raising=False)
    result = CliRunner().invoke(command(), arguments)
    assert orjson.loads(result.stdout) == expected


@pytest.mark.parametrize("arguments", [["nothing"], ["metrics", "--asyncapi"]])
def test_the_command_refuses_what_it_cannot_describe(arguments: list[str]) -> None:
    result = CliRunner().invoke(command(), arguments)
    assert result.exception
    assert not result.stdout


def command() -> Any:
    import typer

    from bus.cli.schema import schema

    app = typer.Typer()
    app.command()(schema)
    return app
