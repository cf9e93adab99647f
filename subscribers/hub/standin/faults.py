"""Faults that tests switch on: what a route answers instead, or does not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Fault", "Faults"]


@dataclass(slots=True)
class Fault:
    """What happens to requests of one route.

    Attributes:
        route: Name of the route; ``*`` for all.
        status: Answer this, and do nothing; None to go on.
        headers: Of that answer.
        body: Of that answer; JSON unless it is bytes.
        is_hanging: Never answer, until the fault is lifted.
        drop_after_bytes: Close the connection once so much of the body has come.
        is_answer_lost: Do it, then close the connection without an answer.
        times: For so many requests; None for all.
        model: Only for this model.
    """

    route: str = "*"
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    is_hanging: bool = False
    drop_after_bytes: int | None = None
    is_answer_lost: bool = False
    times: int | None = None
    model: str | None = None
    hits: int = 0
    lifted: asyncio.Event = field(default_factory=asyncio.Event)


class Faults:
    """The faults that are switched on."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Switch one on."""
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Switch all off; who hangs is let go."""
        for fault in self._faults:
            fault.lifted.set()
        self._faults.clear()

    def of(self, route: str, model: str | None) -> Fault | None:
        """The first fault for a request, which counts as one of its times."""
        for fault in self._faults:
            is_meant = fault.route in {"*", route} and fault.model in {None, model}
            if is_meant and (fault.times is None or fault.hits < fault.times):
                fault.hits += 1
                return fault
        return None
