"""Counting what MLflow really holds of a run. Blocks and takes the client first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from mlflow.entities import Metric, Run
from mlflow.tracking import MlflowClient

__all__ = ["count_points"]

_PAGE = 25_000
"""The most one page may hold."""


def count_points(client: MlflowClient, run: Run) -> int:
    """How many distinct points (key, ms, step, value or NaN) a run has, over all its metrics.

    A page at a time is in memory. Points come sorted by time and step, so that equal ones are
    neighbours.
    """
    return sum(_count_distinct(_history(client, run, key)) for key in run.data.metrics)


def _count_distinct(history: Iterator[Metric]) -> int:
    groups = groupby(history, key=lambda point: (point.timestamp, point.step))
    return sum(len({_value_of(point) for point in points}) for _, points in groups)


def _value_of(point: Metric) -> float | str:
    value = float(point.value)
    return "nan" if math.isnan(value) else value


def _history(client: MlflowClient, run: Run, key: str) -> Iterator[Metric]:
    # The public get_metric_history puts all pages into one list: hundreds of MB for a million.
    store: Any = client._tracking_client.store
    token: str | None = None
    while True:
        page = store.get_metric_history(
            run_id=run.info.run_id, metric_key=key, max_results=_PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return
