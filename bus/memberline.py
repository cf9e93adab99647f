"""What ``trainbus status`` says of one worker beside the numbers: a line, from its report; pure.

A report comes from the broker: whatever it holds is shown as text that a terminal can take, and no
more of it than fits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["member_line"]

_PART_CHARACTERS = 160
_LINE_CHARACTERS = 400


def member_line(name: str, report: Mapping[str, Any]) -> str:
    """What a worker has to show, behind its name; empty when there is nothing.

    Args:
        name: What to call it.
        report: Of its heartbeat.
    """
    parts = [_pause(report), *_stops(report.get("stops")), _keep_alive(report)]
    sink = report.get("sink")
    if isinstance(sink, Mapping):
        parts += [f"{name} {_value(value)}" for name, value in sink.items()]
    shown = ", ".join(_cut(part, _PART_CHARACTERS) for part in parts if part)
    return _cut(f"{name}: {shown}", _LINE_CHARACTERS) if shown else ""


def _pause(report: Mapping[str, Any]) -> str:
    seconds = _number(report.get("rate_paused_seconds"))
    if seconds <= 0:
        return ""
    asked = "" if _number(report.get("rate_asked_seconds")) > 0 else " (asked of another member)"
    return f"paused by the tracker for {seconds:,.0f} s{asked}"


def _stops(stops: object) -> list[str]:
    if not isinstance(stops, Sequence):
        return []
    return [_stop(stop) for stop in stops if isinstance(stop, Mapping)]


def _stop(stop: Mapping[str, Any]) -> str:
    reason, waits = stop.get("reason"), stop.get("published") is False
    said = f"run {stop.get('run')} asked to stop" + (f" ({reason})" if reason else "")
    return said + (", waits for the broker" if waits else "")


def _keep_alive(report: Mapping[str, Any]) -> str:
    failures = _number(report.get("keep_alive_failures"))
    return f"keep-alives failed: {failures:,.0f}" if failures > 0 else ""


def _number(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else 0.0  # type: ignore[arg-type]  # it is a number


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str, most: int) -> str:
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
