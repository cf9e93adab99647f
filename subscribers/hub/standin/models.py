"""The models that the stand-in holds, in memory and as one JSON file each."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import string
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from subscribers.hub.standin.checks import RefusedError

__all__ = ["LIMITS", "Model", "Models"]

LIMITS = {"metrics": 3.0, "upload": 900.0, "heartbeat": 300.0}
"""Seconds between two requests for one model, as ``hub-sdk`` names them."""

_SLACK = 0.1
"""Of a limit: requests do not take equally long to arrive."""

_ALPHABET = string.ascii_letters + string.digits
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(slots=True)
class Model:
    """One model.

    Attributes:
        id: 20 characters.
        body: What it was made of.
        status: ``new``, ``training`` or ``trained``.
        metrics: By epoch.
        uploads: What was told of each file, with its size and sha256.
        agents: Agent ids that heartbeats were given.
        heartbeats: How many came.
        too_soon: How many requests came sooner than the limits allow, by kind.
        last_at: When the last request of each kind came.
    """

    id: str
    body: dict[str, Any] = field(default_factory=dict)
    status: str = "new"
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: list[dict[str, Any]] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    heartbeats: int = 0
    too_soon: dict[str, int] = field(default_factory=dict)
    last_at: dict[str, float] = field(default_factory=dict)

    @property
    def has_last_weights(self) -> bool:
        """There are weights to resume from."""
        return bool(self.uploads)

    def told(self) -> dict[str, Any]:
        """What ``GET /v1/models/ID`` tells of it."""
        config = self.body.get("config", {})
        return {
            "id": self.id,
            "status": self.status,
            "name": self.body.get("meta", {}).get("name"),
            "data": self.body.get("dataset", {}).get("name"),
            "cfg": self.body.get("lineage", {}).get("architecture", {}).get("name"),
            "batch_size": config.get("batchSize"),
            "epochs": config.get("epochs"),
            "imgsz": config.get("imageSize"),
            "patience": config.get("patience"),
            "device": config.get("device"),
            "cache": config.get("cache"),
            "has_last_weights": self.has_last_weights,
            "has_best_weights": any(one.get("isBest") for one in self.uploads),
            "is_pretrained": bool(self.body.get("lineage", {}).get("parent")),
            "is_custom": False,
        }


class Models:
    """All models.

    Args:
        folder: Where to keep them; None to keep them in memory only.
        enforces_limits: Answer 429 to what comes too soon; else it is only counted.
        clock: Seconds, for the limits.
    """

    def __init__(
        self,
        folder: Path | None = None,
        enforces_limits: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.all: dict[str, Model] = {}
        self._folder = folder
        self._enforces_limits = enforces_limits
        self._clock = clock
        self._writing = asyncio.Lock()

    def load(self) -> None:
        """Read what an earlier stand-in kept in the folder."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._folder.glob("*.json")):
            model = Model(**json.loads(path.read_text(encoding="utf-8")))
            model.last_at.clear()  # of another clock
            self.all[model.id] = model

    def add(self, body: Mapping[str, Any], **fields: Any) -> Model:
        """Make a model."""
        number = "".join(secrets.choice(_ALPHABET) for _ in range(20))
        model = Model(fields.pop("id", number), dict(body), **fields)
        self.all[model.id] = model
        return model

    def get(self, number: str) -> Model:
        """The model of an id.

        Raises:
            RefusedError: There is none.
        """
        model = self.all.get(number) if _ID.fullmatch(number) else None
        if model is None:
            raise RefusedError(404, "Model not found")
        return model

    def count(self, model: Model, kind: str) -> None:
        """Note a request that a limit counts.

        Raises:
            RefusedError: It comes too soon, and limits are enforced.
        """
        now = self._clock()
        wait = model.last_at.get(kind, now - LIMITS[kind]) + LIMITS[kind] - now
        if wait > LIMITS[kind] * _SLACK:
            model.too_soon[kind] = model.too_soon.get(kind, 0) + 1
            if self._enforces_limits:
                seconds = f"{wait:.3f}"
                headers = {
                    "Retry-After": seconds,
                    "X-RateLimit-Limit": "1",
                    "X-RateLimit-Remaining": "0",
                    "X-RateLimit-Reset": seconds,
                }
                raise RefusedError(429, "Too many requests", headers)
        model.last_at[kind] = now

    async def keep(self, model: Model) -> None:
        """Write a model to the folder."""
        if self._folder is None:
            return
        path = self._folder / f"{model.id}.json"
        async with self._writing:
            text = json.dumps(asdict(model), indent=1)
            await asyncio.to_thread(_replace, path, text)


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
