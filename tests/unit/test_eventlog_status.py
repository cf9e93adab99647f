"""How a run ended, from its sources."""

from __future__ import annotations

import pytest

from bus.eventlog.status import SourceEnd, run_status


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ([], None),
        ([(0, 1, None)], None),
        ([(0, 1, "completed")], "completed"),
        ([(0, 1, "completed"), (1, 1, None)], None),
        ([(0, 1, "completed"), (1, 1, "killed")], "killed"),
        ([(0, 1, "killed"), (1, 1, "failed")], "failed"),
        ([(0, 1, "failed"), (0, 2, "completed")], "completed"),
        ([(0, 2, "completed"), (0, 1, "failed")], "completed"),
        ([(0, 1, "killed"), (0, 2, None)], None),
        ([(0, 1, None), (0, 1, "killed")], "killed"),
        ([(0, 1, "completed"), (0, 1, "failed"), (0, 1, None)], "failed"),
    ],
)
def test_the_worst_end_of_the_highest_attempts_counts(
    ends: list[tuple[int, int, str | None]], status: str | None
) -> None:
    assert run_status(SourceEnd(*end) for end in ends) == status
