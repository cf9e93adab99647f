"""What a session holds, counted from its file of metrics. Blocks."""

from __future__ import annotations

from pathlib import Path

import orjson

__all__ = ["count_points"]


def count_points(path: Path, size: int) -> int:
    """Distinct scalars of ``metrics.jsonl``: of one iteration, metric and variant the last counts.

    Args:
        path: The file.
        size: Bytes of it that belong to the session.
    """
    steps: dict[tuple[str, str], set[int]] = {}
    if size == 0:
        return 0
    with path.open("rb") as file:
        while file.tell() < size:
            for event in orjson.loads(file.readline()):
                if event["type"] == "training_stats_scalar":
                    series = (event["metric"], event["variant"])
                    steps.setdefault(series, set()).add(event["iter"])
    return sum(map(len, steps.values()))
