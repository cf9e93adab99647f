"""Our events are CloudEvents 1.0: the official Python package reads them, and we read its."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given

from bus.events import decode, encode, type_of_kind
from bus.kinds import KINDS
from tests.fixtures.events import example, whole_events


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_official_package_reads_every_kind(kind: str) -> None:
    event = example(kind)
    read = JSONFormat().read(CloudEvent, encode(event))
    assert read.get_specversion() == "1.0"
    assert read.get_type() == type_of_kind(kind)
    assert read.get_source() == event.source
    assert read.get_id() == "000000000042"
    assert read.get_subject() == "r1"
    assert read.get_time() == datetime(2026, 1, 1, 0, 0, 0, 123000, tzinfo=UTC)
    assert read.get_datacontenttype() == "application/json"
    assert read.get_extension("project") == "digits"
    assert read.get_extension("runname") == "mlp"
    assert read.get_extension("dataref") == event.dataref
    assert read.get_data() == orjson.loads(encode(event))["data"]


@given(whole_events())
def test_the_official_package_reads_any_event(event: Any) -> None:
    JSONFormat().read(CloudEvent, encode(event))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_we_read_what_the_official_package_writes(kind: str) -> None:
    raw = encode(example(kind))
    written = JSONFormat().write(JSONFormat().read(CloudEvent, raw))
    read = decode(written)
    assert read.data == decode(raw).data
    assert (read.source, read.id, read.time) == (example(kind).source, 42, 1767225600.123)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_attribute_names_keep_to_lower_case_letters_and_digits(kind: str) -> None:
    # The specification asks for it, section "Naming conventions".
    for name in orjson.loads(encode(example(kind))):
        assert name.isascii()
        assert name.isalnum()
        assert name == name.lower()
        assert len(name) <= 20
