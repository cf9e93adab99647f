"""A worker and the record of its group agree on the number of shards."""

from __future__ import annotations

from typing import cast

import pytest

from bus.errors import ConfigError
from bus.eventlog import Group
from bus.eventlog.aio import AsyncEventLog
from subscribers.worker.joining import join_group
from subscribers.worker.options import DEFAULT_SHARDS, WorkerOptions


class Log:
    """An event log that has the group on record with so many shards; None for a new group."""

    def __init__(self, shards: int | None) -> None:
        self.shards = shards

    async def register_group(self, group: str, shards: int, now: float) -> Group:
        return Group(group, self.shards or shards, 5.0)


async def join(recorded: int | None, chosen: int | None) -> int:
    options = WorkerOptions(
        "mlflow",
        DEFAULT_SHARDS if chosen is None else chosen,
        has_chosen_shards=chosen is not None,
    )
    joined, group = await join_group(options, cast("AsyncEventLog", Log(recorded)))
    assert group.started_at == 5.0
    return joined.shards


@pytest.mark.parametrize(
    ("recorded", "chosen", "shards"),
    [(None, None, DEFAULT_SHARDS), (None, 3, 3), (4, None, 4), (4, 4, 4)],
)
async def test_a_worker_takes_the_number_it_was_told_or_that_of_its_group(
    recorded: int | None, chosen: int | None, shards: int
) -> None:
    assert await join(recorded, chosen) == shards


async def test_a_worker_told_another_number_than_on_record_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match="trainbus group resize mlflow --shards 8"):
        await join(4, 8)
