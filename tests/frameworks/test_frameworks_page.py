"""The snippets of docs/frameworks.md run as they stand, and publish what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fixtures.frameworks import FrameworkRoad

PAGE = Path(__file__).parents[2] / "docs/frameworks.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize(
    ("number", "name", "checkpoints"),
    [(0, "mlp", 2), (1, "bert", 1), (2, "dense", 0), (3, "dense", 1)],
    ids=["lightning", "transformers", "keras", "keras-run"],
)
def test_the_snippets_of_the_page_run(
    framework_road: FrameworkRoad, number: int, name: str, checkpoints: int
) -> None:
    assert len(SNIPPETS) == 4
    process = framework_road.start(SNIPPETS[number])
    assert process.wait(120.0) == 0, process.printed()
    assert framework_road.wait_ends() == [("completed", "")]

    assert {(event.project, event.run_name) for event in framework_road.events()} == {
        ("digits", name)
    }
    assert "train/loss" in {key for key, _, _ in framework_road.points()}
    assert len(framework_road.data("checkpoint")) == checkpoints
    # Neither warned about nor dropped.
    assert "trainbus:" not in process.printed()
    assert [end.dropped for end in framework_road.data("run_finished")] == [{}]
