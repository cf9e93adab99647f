from __future__ import annotations

import orjson
import pytest

from publishers import Run, start_run
from tests.fixtures.spool import Spool


@pytest.fixture
def run(spool: Spool) -> Run:
    return start_run("digits", "mlp")


def test_many_params_are_spread_over_records_that_fit(spool: Spool, run: Run) -> None:
    params = {f"p{number}": "x" * 1000 for number in range(1000)}
    run.params(params)
    found: dict[str, str] = {}
    for record in spool.records("params"):
        assert len(orjson.dumps(record)) < 210 * 1024
        found.update(record["data"]["params"])
    assert found == params


def test_a_value_too_large_for_an_event_becomes_an_artifact(spool: Spool, run: Run) -> None:
    large = ["x" * 1000] * 300
    run.params({"small": 1, "a/b": large})
    (artifact,) = spool.records("artifact")
    path = artifact["data"]["path"]
    assert path.startswith("params/General/a-b-")
    assert orjson.loads(spool.blob(artifact).read_bytes()) == large
    merged = {}
    for record in spool.records("params"):
        merged.update(record["data"]["params"])
    assert merged == {"small": 1, "a/b": f"too large for an event: see artifact {path}"}


def test_a_large_value_without_room_for_a_file_takes_nothing_with_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINBUS_SPOOL_RESERVE", str(2**60))
    run = start_run("p")
    run.params({"small": 1, "large": ["x" * 1000] * 300})
    merged = {}
    for data in spool.data("params"):
        merged.update(data["params"])
    assert merged == {
        "small": 1,
        "large": "too large for an event, and there was no room for a file",
    }
    assert run.dropped == {"no_room_for_files": 1}


def test_run_started_is_written_however_much_there_is_to_say(spool: Spool) -> None:
    config = {f"c{number}": "x" * 1000 for number in range(500)}
    tags = {f"t{number}": "x" * 1000 for number in range(500)}
    start_run("p", config=config, tags=tags)
    (started,) = spool.data("run_started")
    assert started["tags"] == {}
    found: dict[str, str] = {}
    for data in spool.data("tags"):
        found.update(data["set"])
    assert found == tags
    (artifact,) = spool.records("artifact")
    assert artifact["data"]["path"] == "config/config.json"
    assert orjson.loads(spool.blob(artifact).read_bytes()) == config
