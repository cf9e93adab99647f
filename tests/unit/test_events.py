"""Events on the wire: what is written is read back, and what is wrong is named."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import EventError
from bus.events import (
    MAX_EVENT_BYTES,
    decode,
    decode_envelope,
    encode,
    format_id,
    kind_of_type,
    metric_points,
    type_of_kind,
)
from bus.kinds import KINDS, Metrics, Params, Summary, Table
from tests.fixtures.events import EXAMPLES, example, whole_events


def as_json(kind: str = "metrics") -> dict[str, Any]:
    parsed: dict[str, Any] = orjson.loads(encode(example(kind)))
    return parsed


def changed(kind: str = "metrics", **changes: Any) -> bytes:
    """An event with fields replaced, or left out where the value is ``...``."""
    fields = {**as_json(kind), **changes}
    return orjson.dumps({key: value for key, value in fields.items() if value is not ...})


def refused(raw: bytes) -> EventError:
    with pytest.raises(EventError) as caught:
        decode(raw)
    assert "\n" not in str(caught.value)
    return caught.value


@given(whole_events())
def test_any_event_is_read_back_as_it_was_written(event: Any) -> None:
    raw = encode(event)
    read = decode(raw)
    assert read.time == pytest.approx(event.time, abs=1e-6)
    assert msgspec.structs.replace(read, time=event.time, size=0) == event
    assert read.size == len(raw)


@given(whole_events())
def test_an_event_read_and_written_again_is_the_same_to_the_byte(event: Any) -> None:
    raw = encode(event)
    assert encode(decode(raw)) == raw


@given(whole_events())
def test_the_envelope_says_what_the_whole_event_says(event: Any) -> None:
    raw = encode(event)
    envelope, read = decode_envelope(raw), decode(raw)
    assert (envelope.kind, envelope.source, envelope.number) == (read.kind, read.source, read.id)
    assert (envelope.subject, envelope.project) == (read.run, read.project)
    assert envelope.time_seconds == read.time


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_an_event_error(raw: bytes) -> None:
    refused(raw)


@given(whole_events(), st.data())
def test_an_event_damaged_at_any_byte_never_raises_anything_else(event: Any, data: Any) -> None:
    raw = bytearray(encode(event))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(raw))
    except EventError as error:
        assert error.field


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_has_an_example_that_is_read_back(kind: str) -> None:
    assert decode(encode(example(kind))).data == EXAMPLES[kind]
    assert kind_of_type(type_of_kind(kind)) == kind


@pytest.mark.parametrize(
    "name",
    [
        "specversion",
        "type",
        "source",
        "id",
        "subject",
        "time",
        "datacontenttype",
        "project",
        "runname",
        "data",
    ],
)
def test_a_missing_field_is_named(name: str) -> None:
    missing: dict[str, Any] = {name: ...}
    assert refused(changed(**missing)).field == name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("specversion", "0.3"),
        ("specversion", 1.0),
        ("type", "trainbus.metrics.v2"),
        ("type", "trainbus.nothing.v1"),
        ("type", "metrics"),
        ("type", 7),
        ("source", "/runs/r1"),
        ("source", "/runs/r1/٣/1-69559a00-7f3e9b21c4d5a6e0/node-0"),
        ("source", "/runs/r1/0/0-69559a00-7f3e9b21c4d5a6e0/node-0"),
        ("source", "/runs/r+1/0/1-69559a00-7f3e9b21c4d5a6e0/node-0"),
        ("id", "42"),
        ("id", "000000000000"),
        ("id", "-00000000042"),
        ("id", "00000000004²"),
        ("id", "0000000000042"),
        ("id", "9" * 5000),
        ("id", 42),
        ("subject", "r2"),
        ("time", "2026-01-01T00:00:00"),
        ("time", "yesterday"),
        ("time", 1767225600),
        ("datacontenttype", "text/plain"),
        ("project", ""),
        ("project", None),
        ("runname", ""),
        ("runname", ["mlp"]),
        ("data", "no object"),
    ],
)
def test_a_malformed_field_is_named(field: str, value: Any) -> None:
    assert refused(changed(**{field: value})).field == field


@pytest.mark.parametrize(
    ("kind", "data", "field"),
    [
        ("metrics", {}, "data.tables"),
        ("metrics", {"tables": [{"keys": ["a"]}]}, "data.tables[0].rows"),
        ("metrics", {"tables": [{"keys": [""], "rows": []}]}, "data.tables[0].keys[0]"),
        ("metrics", {"tables": [{"keys": [1], "rows": []}]}, "data.tables[0].keys[0]"),
        ("metrics", {"tables": [{"keys": ["a"], "rows": [[1, 1]]}]}, "data.tables[0].rows[0]"),
        (
            "metrics",
            {"tables": [{"keys": ["a"], "rows": [[1, 1, 2, 3]]}]},
            "data.tables[0].rows[0]",
        ),
        ("metrics", {"tables": [{"keys": [], "rows": [[1, 1.5]]}]}, "data.tables[0].rows[0]"),
        ("metrics", {"tables": [{"keys": [], "rows": [["NaN", 1]]}]}, "data.tables[0].rows[0]"),
        (
            "metrics",
            {"tables": [{"keys": ["a"], "rows": [[1, 1, None]]}]},
            "data.tables[0].rows[0][2]",
        ),
        (
            "metrics",
            {"tables": [{"keys": ["a"], "rows": [[1, 1, True]]}]},
            "data.tables[0].rows[0][2]",
        ),
        ("summary", {"values": {"a": "nan"}}, "data.values[...]"),
        ("tags", {"set": {"a": 1}}, "data.set[...]"),
        ("checkpoint", {"blob": {"name": "a", "size": -1, "sha256": "0" * 64}}, "data.blob.size"),
        ("checkpoint", {"blob": {"name": "a", "size": 1, "sha256": "XY"}}, "data.blob.sha256"),
        ("checkpoint", {}, "data.blob"),
        ("run_finished", {"status": "done", "last_id": 1}, "data.status"),
        ("run_finished", {"status": "failed", "last_id": 0}, "data.last_id"),
        ("run_started", {"world": {"ranks": 0}}, "data.world.ranks"),
        ("phase", {"phase": "sleep", "state": "started"}, "data.phase"),
        ("params", {"section": "a", "params": []}, "data.params"),
    ],
)
def test_malformed_data_is_named(kind: str, data: Any, field: str) -> None:
    assert refused(changed(kind, data=data)).field == field


@pytest.mark.parametrize("spelling", ["nan", "NAN", "inf", "+Infinity", "-inf", "1.0", ""])
def test_a_number_spelled_wrongly_is_named(spelling: str) -> None:
    error = refused(changed(data={"tables": [{"keys": ["a"], "rows": [[1.0, 1, spelling]]}]}))
    assert error.field == "data.tables[0].rows[0][2]"


@pytest.mark.parametrize("token", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_a_bare_non_finite_number_is_refused(token: bytes) -> None:
    refused(
        changed(data={"tables": [{"keys": ["a"], "rows": [[1, 1, 2.25]]}]}).replace(b"2.25", token)
    )


def test_non_finite_numbers_arrive_as_floats() -> None:
    rows = [[1.0, 1, "NaN", "Infinity", "-Infinity"]]
    event = decode(changed(data={"tables": [{"keys": ["a", "b", "c"], "rows": rows}]}))
    assert isinstance(event.data, Metrics)
    nan, *rest = (float(value) for value in event.data.tables[0].rows[0][2:])
    assert nan != nan
    assert rest == [float("inf"), float("-inf")]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if hasattr(EXAMPLES[kind], "blob")])
def test_a_kind_with_bytes_needs_a_reference_to_them(kind: str) -> None:
    assert refused(changed(kind, dataref=...)).field == "dataref"


def test_an_event_over_the_limit_is_refused_both_ways() -> None:
    large = example("params", data=Params("General", {"text": "x" * MAX_EVENT_BYTES}))
    with pytest.raises(EventError, match="over 262144"):
        encode(large)
    raw = changed("params", data={"section": "General", "params": {"t": "x" * MAX_EVENT_BYTES}})
    error = refused(raw)
    assert error.field == "event"
    assert "over 262144" in error.reason


def test_an_event_of_exactly_the_limit_is_accepted() -> None:
    empty = encode(example("params", data=Params("General", {"text": ""})))
    text = "x" * (MAX_EVENT_BYTES - len(empty))
    raw = encode(example("params", data=Params("General", {"text": text})))
    assert len(raw) == MAX_EVENT_BYTES
    decode(raw)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_refused_and_not_a_crash(opening: bytes) -> None:
    sound = changed("params", data={"section": "General", "params": {"deep": 0}})
    refused(sound.replace(b'"deep":0', b'"deep":' + opening * (100_000 // len(opening))))


@pytest.mark.parametrize(
    "deep", [b"[" * 2_000 + b"]" * 2_000, b'{"a":' * 2_000 + b"1" + b"}" * 2_000]
)
def test_deep_nesting_that_is_closed_is_refused_too(deep: bytes) -> None:
    sound = changed("params", data={"section": "General", "params": {"deep": 0}})
    refused(sound.replace(b'"deep":0', b'"deep":' + deep))


def test_text_that_is_not_utf8_is_refused() -> None:
    refused(changed(project="pppp").replace(b"pppp", b"p\xff\xfep"))


def test_fields_of_a_later_version_are_ignored() -> None:
    event = decode(changed("summary", data={"values": {"a": 1}, "later": 2}, laterattribute="x"))
    assert event.data == Summary({"a": 1})


@pytest.mark.parametrize("time", [float("nan"), float("inf"), 1e20, -1e20])
def test_a_time_that_is_none_is_named_when_writing(time: float) -> None:
    with pytest.raises(EventError) as caught:
        encode(example("tags", time=time))
    assert caught.value.field == "time"


def test_what_json_cannot_hold_is_named_when_writing() -> None:
    with pytest.raises(EventError) as caught:
        encode(example("params", data=Params("General", {"a": object()})))
    assert caught.value.field == "data"


def test_points_are_counted_over_all_tables() -> None:
    tables = [Table(["a", "b"], [[1.0, 1, 2, 3], [2.0, 2, 3, 4]]), Table(["c"], [[1.0, 1, 5]])]
    assert metric_points(Metrics(tables)) == 5


def test_ids_sort_as_text_as_they_do_as_numbers() -> None:
    numbers = [1, 9, 10, 99, 10**6, 10**11]
    assert sorted(map(format_id, numbers)) == [format_id(number) for number in numbers]


def test_an_error_says_where_and_why() -> None:
    error = refused(changed(specversion="0.3"))
    assert str(error) == f"{error.field}: {error.reason}"
