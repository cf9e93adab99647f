"""What the status says of one worker in a line."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.cli.status import _render
from bus.group.heartbeat import Heartbeat
from bus.memberline import member_line
from bus.status import LogFacts, Status, make_status

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def status_of(*reports: dict[str, Any]) -> Status:
    members = {
        ("hub", f"host-{n}"): Heartbeat(f"host-{n}", 8, [n], report=report)
        for n, report in enumerate(reports)
    }
    return make_status("mqtt://h:1", None, members, {}, LogFacts())


def rendered(status: Status) -> str:
    from rich.console import Console

    console = Console(width=300, highlight=False)
    with console.capture() as capture:
        console.print(_render(status))
    return capture.get()


@pytest.mark.parametrize(
    ("report", "line"),
    [
        ({}, ""),
        ({"rate_paused_seconds": 0.0, "keep_alive_failures": 0, "stops": [], "sink": {}}, ""),
        (
            {"sink": {"uploads": [{"run": "r1", "percent": 40}], "agent": "a-1"}},
            'uploads [{"run": "r1", "percent": 40}], agent a-1',
        ),
        (
            {"rate_paused_seconds": 29.6, "rate_asked_seconds": 29.6},
            "paused by the tracker for 30 s",
        ),
        (
            {"rate_paused_seconds": 29.6},
            "paused by the tracker for 30 s (asked of another member)",
        ),
        ({"keep_alive_failures": 1200}, "keep-alives failed: 1,200"),
        (
            {"stops": [{"run": "r1", "reason": "cancelled", "published": False}, {"run": "r2"}]},
            "run r1 asked to stop (cancelled), waits for the broker, run r2 asked to stop",
        ),
        (
            {"sink": {"a": "x\x1b[31m\ny"}},
            "a x\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}y",
        ),
    ],
)
def test_a_worker_is_shown_with_what_it_has_to_say(report: dict[str, Any], line: str) -> None:
    assert member_line("a", report) == (line and f"a: {line}")


@given(st.dictionaries(st.sampled_from(["sink", "stops", "rate_paused_seconds"]), JSON))
def test_any_report_makes_a_short_line_that_can_be_shown(report: dict[str, Any]) -> None:
    line = member_line("a\n", report)
    assert len(line) <= 400
    assert line.isprintable()


def test_the_table_is_followed_by_a_line_for_each_worker_with_something_to_show() -> None:
    status = status_of({}, {"sink": {"uploads": 2}}, {"keep_alive_failures": 1})
    text = rendered(status)
    assert "hub host-1: uploads 2" in text
    assert "hub host-2: keep-alives failed: 1" in text
    assert "host-0" not in text


def test_the_json_form_holds_the_whole_state() -> None:
    state = {"uploads": [{"run": "r1", "percent": 40}]}
    (group,) = [g for g in status_of({"sink": state}).to_dict()["groups"] if g["group"] == "hub"]
    assert group["members"][0]["report"]["sink"] == state


def test_a_report_that_json_cannot_hold_costs_only_itself() -> None:
    status = status_of({"lag": 10**30}, {"lag": 2})
    members = next(g for g in status.groups if g.group == "hub").members
    assert [member.report for member in members] == [{}, {"lag": 2}]
    orjson.dumps(status.to_dict())
