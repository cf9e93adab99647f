"""Curves and confusion matrices as data, for trackers that draw them themselves.

Ultralytics keeps what it drew beside each picture; one JSON file for each type, as Platform's own
callback sends them: curves at 101 points.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from publishers.run import Run
from publishers.values import plain

__all__ = ["curves_of", "log_curves"]

_POINTS = 101
_MAX_VALUES = 1_000_000


def log_curves(run: Run, trainer: Any) -> None:
    """Log what was drawn in a training, as plots of JSON."""
    found = curves_of(trainer)
    with tempfile.TemporaryDirectory(prefix="trainbus-") as folder:
        for kind, data in found.items():
            path = Path(folder) / f"{kind}.json"
            path.write_bytes(msgspec.json.encode(data))
            run.plot(kind, "data", path)


def curves_of(trainer: Any) -> dict[str, Any]:
    """The data by type: of the trainer first, else the last of its validator."""
    found: dict[str, Any] = {}
    own = list(_data(getattr(trainer, "plots", None)))
    checked = list(_data(getattr(getattr(trainer, "validator", None), "plots", None)))
    for data in [*checked, *own]:
        found[str(data["type"])] = data
    return {kind: _thinned(data) for kind, data in found.items()}


def _data(plots: Any) -> Iterator[Mapping[str, Any]]:
    for info in (plots or {}).values():
        data = info.get("data") if isinstance(info, Mapping) else None
        if isinstance(data, Mapping) and data.get("type"):
            yield data


def _thinned(data: Mapping[str, Any]) -> dict[str, Any]:
    x, y = data.get("x"), data.get("y")
    if x is None or y is None or len(x) <= _POINTS:
        return {name: _listed(value) for name, value in data.items()}
    import numpy as np

    old, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    new = np.linspace(old[0], old[-1], _POINTS)
    rows = [np.interp(new, old, row) for row in np.atleast_2d(values)]
    thin = {"x": new.tolist(), "y": [row.tolist() for row in rows]}
    if values.ndim == 1:
        thin["y"] = thin["y"][0]
    return {name: _listed(thin.get(name, value)) for name, value in data.items()}


def _listed(value: Any) -> Any:
    """As JSON; arrays of any size become lists, which ``plain`` alone would shorten."""
    if hasattr(value, "tolist") and getattr(value, "size", 0) <= _MAX_VALUES:
        value = value.tolist()
    return plain(value)
