"""What a model event may say to MLflow alone: ``options["mlflow"]`` of :class:`bus.kinds.Model`.

::

    {"params": {name: text}, "tags": {name: text}, "model_type": text,
     "version": {"tags": {name: text}, "description": text},
     "points": [[key, milliseconds, step, value, dataset name, dataset digest], …]}

``points`` are points of the run that belong to the model as well. What is not of this form is left
out: it came over the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Metric

from bus.kinds import Model
from subscribers.mlflow.names import safe_name, user_tag

__all__ = ["Extras", "read_extras"]

_MAX_PARAM = 6000
_MAX_TAG = 4500


@dataclass(frozen=True, slots=True)
class Extras:
    """Names and texts as MLflow takes them."""

    params: dict[str, str]
    tags: dict[str, str]
    model_type: str | None
    version_tags: dict[str, str]
    description: str | None
    points: list[tuple[str, int, int, float, str | None, str | None]]

    def metrics(self, model_id: str) -> list[Metric]:
        """The points, as points of a model too."""
        return [
            Metric(
                key, value, ms, step, model_id=model_id, dataset_name=name, dataset_digest=digest
            )
            for key, ms, step, value, name, digest in self.points
        ]


def read_extras(data: Model) -> Extras:
    """What a model event says to MLflow alone."""
    said = data.options.get("mlflow", {})
    version = said.get("version")
    version = version if isinstance(version, dict) else {}
    points = said.get("points")
    read = [_point(one) for one in points] if isinstance(points, list) else []
    return Extras(
        params={safe_name(key): text[:_MAX_PARAM] for key, text in _texts(said.get("params"))},
        tags={user_tag(key): text[:_MAX_TAG] for key, text in _texts(said.get("tags"))},
        model_type=_text(said.get("model_type")),
        version_tags={user_tag(key): text[:_MAX_TAG] for key, text in _texts(version.get("tags"))},
        description=_text(version.get("description")),
        points=[point for point in read if point is not None],
    )


def _texts(value: Any) -> list[tuple[str, str]]:
    """The pairs of a dict of texts. PostgreSQL takes no NUL in one."""
    if not isinstance(value, dict):
        return []
    return [(key, str(text).replace("\0", "\\0")) for key, text in value.items() if key]


def _text(value: Any) -> str | None:
    return value.replace("\0", "\\0") if isinstance(value, str) and value else None


def _point(value: Any) -> tuple[str, int, int, float, str | None, str | None] | None:
    """A point that MLflow takes among a model's: it would keep NaN as 0 there."""
    match value:
        case [str(key), int(ms), int(step), float() | int() as number, name, digest] if key:
            pass
        case _:
            return None
    is_sound = 0 <= ms < 2**63 and -(2**63) < step < 2**63 and math.isfinite(number)
    if not is_sound:
        return None
    both = isinstance(name, str) and isinstance(digest, str)
    return safe_name(key), ms, step, float(number), *((name, digest) if both else (None, None))
