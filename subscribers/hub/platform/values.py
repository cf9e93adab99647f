"""Values of the bus as this wire writes them. Pure.

Numbers that are not finite are null here, as Platform's own client sends them: JSON has no word for
them, and the event log keeps what they were.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from bus.kinds import NonFinite, Number

__all__ = ["Value", "finite", "is_of_other_rank", "json_value", "system_of"]

Value = int | float | None
"""A number on this wire."""

_LOWEST_INT, _HIGHEST_INT = -(2**63), 2**64 - 1
"""What orjson writes as whole numbers."""

_OTHER_RANK = re.compile(r"rank\d+/")
_GPU = re.compile(r"gpus?\.(\d+)\.(.+)")

_PLAIN = {
    "cpu": "cpu",
    "cpu.percent": "cpu",
    "memory": "ram",
    "memory.percent": "ram",
    "ram": "ram",
    "ram.percent": "ram",
}
_GPU_FIELDS = {
    "memory.percent": "memory",
    "percent": "usage",
    "power.watts": "power",
    "temperature": "temp",
    "util": "usage",
    "utilization": "usage",
}
_GROUPS = ("disk_io", "network")
_DISK = ("disk.used_gb", "disk.total_gb")


def finite(value: Number) -> Value:
    """A number, or null when it is not finite; a whole one beyond 64 bits as a float."""
    if isinstance(value, NonFinite):
        return None
    if isinstance(value, int) and not _LOWEST_INT <= value <= _HIGHEST_INT:
        try:
            return float(value)
        except OverflowError:
            return None
    return value if math.isfinite(value) else None


def json_value(value: Any) -> Any:
    """Any JSON value with null in the place of what is not finite, however deep."""
    if isinstance(value, Mapping):
        return {str(key): json_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(one) for one in value]
    return finite(value) if isinstance(value, int | float) else value


def is_of_other_rank(name: str) -> bool:
    """Whether another rank than the first wrote a metric: ``rank3/train/loss``."""
    return _OTHER_RANK.match(name) is not None


def system_of(readings: Mapping[str, Number]) -> dict[str, Any]:
    """Readings by name as Platform groups them.

    ``cpu.percent`` → ``cpu``, ``memory.percent`` → ``ram``, ``gpu.0.percent`` → ``gpus.0.usage``,
    ``network.sent_mbs`` → ``network.sent_mbs``; others keep their names.
    """
    found: dict[str, Any] = {"gpus": {}}
    for name, number in readings.items():
        value = finite(number)
        gpu = _GPU.fullmatch(name)
        group, _, rest = name.partition(".")
        if gpu is not None:
            fields = found["gpus"].setdefault(gpu[1], {})
            fields[_GPU_FIELDS.get(gpu[2], gpu[2])] = value
        elif group in _GROUPS and rest:
            found.setdefault(group, {})[rest] = value
        elif name in _DISK:
            disks = found.setdefault("disk", [{"mount": "/"}])
            disks[0][name.partition(".")[2]] = value
        else:
            found[_PLAIN.get(name, name)] = value
    return found
