"""JSON Schema of the events, and the AsyncAPI document of the topics: generated from the Structs.

Nothing here is written twice: names, types and bounds come from :mod:`bus.kinds` and
:mod:`bus.events`, the descriptions from their docstrings.

Formats: https://json-schema.org/draft-07 (the dialect that AsyncAPI takes as it is) and
https://www.asyncapi.com/docs/reference/specification/v3.0.0.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import msgspec

from bus._version import __version__
from bus.errors import EventError
from bus.events import MAX_EVENT_BYTES, Envelope, type_of_kind
from bus.kinds import KINDS
from bus.nodes import NodeHeartbeat

__all__ = ["asyncapi_document", "event_schema", "events_schema"]

_DIALECT = "http://json-schema.org/draft-07/schema#"

_ATTRIBUTE = re.compile(r"(\w+): (.+)")

_Schema = dict[str, Any]


def event_schema(kind: str) -> _Schema:
    """The JSON Schema of a whole event of one kind.

    Raises:
        EventError: There is no such kind.
    """
    if kind not in KINDS:
        raise EventError("kind", f"no kind {kind!r}; there are {', '.join(KINDS)}")
    place = "#/definitions/"
    schemas = _components(place)
    return {
        "$schema": _DIALECT,
        **_event(kind, place),
        "definitions": _used(schemas, KINDS[kind].__name__, place),
    }


def events_schema() -> _Schema:
    """The JSON Schema of an event of any kind."""
    place = "#/definitions/"
    return {
        "$schema": _DIALECT,
        "title": "Event",
        "oneOf": [_event(kind, place) for kind in KINDS],
        "definitions": _components(place),
    }


def asyncapi_document(prefix: str = "trainbus/v1") -> _Schema:
    """The AsyncAPI 3 document: topics, messages, and who sends what.

    Args:
        prefix: The topics' prefix, without a slash at its end.
    """
    place = "#/components/schemas/"
    schemas = _components(place)
    schemas["NodeHeartbeat"] = _tidy(
        msgspec.json.schema_components([NodeHeartbeat])[1]["NodeHeartbeat"], NodeHeartbeat
    )
    schemas["StoredAck"] = _STORED_ACK
    messages = {kind: _event_message(kind, place) for kind in KINDS}
    messages["stored"] = _message("StoredAck", place, "What the event log has stored of a run.")
    messages["node"] = _message("NodeHeartbeat", place, "Heartbeat and last will of a shipper.")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "trainbus",
            "version": __version__,
            "description": (
                "Events of model training over MQTT 3.1.1 or later, QoS 1: CloudEvents 1.0 in "
                f"structured JSON mode, at most {MAX_EVENT_BYTES} bytes each."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": _channels(prefix),
        "operations": _operations(),
        "components": {"messages": messages, "schemas": schemas},
    }


_STORED_ACK: _Schema = {
    "title": "StoredAck",
    "description": "Per source the ids that are stored, as ranges such as 1-500,502-510.",
    "type": "object",
    "properties": {
        "sources": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["sources"],
}

_LEVEL_RULE = "characters outside [A-Za-z0-9-] are written _XX in hex"

_PARAMETERS = {
    "slot": "crc32 of the run's id modulo 64, as two hex digits",
    "project": f"The project; {_LEVEL_RULE}.",
    "run": f"The run's id; {_LEVEL_RULE}.",
    "kind": "The kind of event.",
    "group": "The group of workers that a replay is for.",
    "node": f"The node's name; {_LEVEL_RULE}.",
    "spool": "The name of the spool on its node.",
}

_CHANNELS = {
    "events": ("events/{slot}/{project}/{run}/{kind}", tuple(KINDS)),
    "replay": ("replay/{group}/{slot}/{project}/{run}/{kind}", tuple(KINDS)),
    "stored": ("stored/{project}/{run}", ("stored",)),
    "nodes": ("nodes/{node}/{spool}", ("node",)),
}

_OPERATIONS = {
    "publishEvents": ("send", "events", "A shipper publishes what its journals hold."),
    "consumeEvents": ("receive", "events", "Every group receives every event."),
    "replayEvents": ("send", "replay", "Events of the log, again, to one group."),
    "consumeReplay": ("receive", "replay", "Only the group in the topic receives them."),
    "confirmStored": ("send", "stored", "The log group confirms what it has committed."),
    "awaitStored": ("receive", "stored", "Shippers trim their journals by it."),
    "announceNode": ("send", "nodes", "A shipper's heartbeat, also its last will."),
}


def _channels(prefix: str) -> _Schema:
    return {
        name: {
            "address": f"{prefix}/{address}",
            "messages": {one: {"$ref": f"#/components/messages/{one}"} for one in messages},
            "parameters": {
                level: {"description": _PARAMETERS[level]}
                for level in re.findall(r"{(\w+)}", address)
            },
            "bindings": {"mqtt": {"bindingVersion": "0.2.0"}},
        }
        for name, (address, messages) in _CHANNELS.items()
    }


def _operations() -> _Schema:
    return {
        name: {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": summary,
            "bindings": {"mqtt": {"qos": 1, "retain": False, "bindingVersion": "0.2.0"}},
        }
        for name, (action, channel, summary) in _OPERATIONS.items()
    }


def _message(struct: str, place: str, summary: str) -> _Schema:
    return {
        "name": struct,
        "summary": summary,
        "contentType": "application/json",
        "payload": {"$ref": place + struct},
    }


def _event_message(kind: str, place: str) -> _Schema:
    return {
        "name": kind,
        "title": type_of_kind(kind),
        "summary": _summary(KINDS[kind]),
        "contentType": "application/cloudevents+json",
        "payload": _event(kind, place),
    }


def _event(kind: str, place: str) -> _Schema:
    """The schema of an event of a kind; its data is referred to below ``place``."""
    envelope = _tidy(msgspec.json.schema_components([Envelope])[1]["Envelope"], Envelope)
    has_bytes = "blob" in KINDS[kind].__struct_fields__
    return {
        **envelope,
        "title": type_of_kind(kind),
        "description": _summary(KINDS[kind]),
        "properties": {
            **envelope["properties"],
            "type": {"const": type_of_kind(kind)},
            "id": {"type": "string", "pattern": "^[0-9]{12,18}$"},
            "time": {"type": "string", "format": "date-time"},
            "dataref": {"type": "string"} if has_bytes else envelope["properties"]["dataref"],
            "data": {"$ref": place + KINDS[kind].__name__},
        },
        "required": envelope["required"] + (["dataref"] if has_bytes else []),
    }


def _components(place: str) -> _Schema:
    """The schemas of all kinds and of what they are made of, by the name of the Struct."""
    _, found = msgspec.json.schema_components(KINDS.values(), ref_template=place + "{name}")
    structs = {struct.__name__: struct for struct in _structs()}
    return {name: _tidy(schema, structs.get(name)) for name, schema in sorted(found.items())}


def _structs() -> list[type[msgspec.Struct]]:
    import bus.kinds

    return [
        value
        for value in vars(bus.kinds).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    ]


def _used(schemas: _Schema, root: str, place: str) -> _Schema:
    """The schemas that ``root`` leads to, itself included."""
    names, waiting = set[str](), [root]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += re.findall(re.escape(place) + r"(\w+)", str(schemas[name]))
    return {name: schemas[name] for name in sorted(names)}


def _tidy(schema: _Schema, struct: type[msgspec.Struct] | None) -> _Schema:
    """Move the "Attributes" of a docstring to the properties they describe."""
    if struct is None:
        return schema
    text, _, attributes = inspect.cleandoc(struct.__doc__ or "").partition("\n\nAttributes:\n")
    wire_names = dict(zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True))
    properties = dict(schema["properties"])
    for name, description in _described(attributes):
        wire_name = wire_names[name]
        properties[wire_name] = {**properties[wire_name], "description": description}
    return {**schema, "description": text, "properties": properties}


def _described(attributes: str) -> list[tuple[str, str]]:
    """The names and texts of an "Attributes" section, continued lines joined."""
    found: list[tuple[str, str]] = []
    for line in inspect.cleandoc(attributes).splitlines():
        match = _ATTRIBUTE.fullmatch(line)
        if match:
            found.append((match[1], match[2]))
        elif found:
            name, text = found[-1]
            found[-1] = (name, f"{text} {line.strip()}")
    return found


def _summary(struct: type[msgspec.Struct]) -> str:
    return inspect.cleandoc(struct.__doc__ or "").partition("\n")[0]
