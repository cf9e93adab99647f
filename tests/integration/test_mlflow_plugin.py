"""Unmodified MLflow programs, over a real broker into another MLflow: the same is in both."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.broker import EmbeddedBroker
from tests.fixtures.processes import Processes, wait_until
from tests.integration.mlflow_programs import AUTOLOG, FLUENT, MODELS, NESTED
from tests.integration.mlflow_road import Road


@pytest.fixture
def road(mosquitto: EmbeddedBroker, tmp_path: Path, processes: Processes) -> Road:
    return Road(mosquitto, tmp_path, processes)


@pytest.mark.slow
def test_the_fluent_calls_of_a_program_arrive_value_by_value(road: Road) -> None:
    wanted = road.compare(FLUENT)
    run = wanted["runs"]["team/digits (a)", "fluent"]
    assert len(run["points"]["batch"]) == 700
    assert run["points"]["after the end"] == [(2, 1700000000004, "4.0")]
    assert run["status"] == "FINISHED"
    assert wanted["runs"]["team/digits (a)", "failing"]["status"] == "FAILED"
    assert len(wanted["runs"]) == 3


@pytest.mark.slow
def test_nested_runs_and_runs_of_several_threads_arrive(road: Road) -> None:
    wanted = road.compare(NESTED)
    runs = wanted["runs"]
    assert len(runs) == 8
    assert runs["Default", "child 1"]["tags"]["mlflow.parentRunId"] == "parent"


@pytest.mark.slow
def test_models_arrive_with_their_files_params_points_and_versions(road: Road) -> None:
    wanted = road.compare(MODELS)
    assert [model["name"] for model in wanted["models"]] == ["line", "plain"]
    assert len(wanted["versions"]) == 2


@pytest.mark.slow
def test_autolog_of_scikit_learn_arrives(road: Road) -> None:
    wanted = road.compare(AUTOLOG, has_times=False)
    (run,) = wanted["runs"].values()
    assert run["params"]["C"] == "0.5"
    assert "training_accuracy_score" in run["points"]
    assert len(wanted["models"]) == 1


@pytest.mark.slow
def test_a_program_that_is_killed_ends_its_run_as_killed(road: Road) -> None:
    program = """
import time
import mlflow
mlflow.start_run(run_name="killed")
for step in range(200):
    mlflow.log_metric("m", step, step=step, synchronous=False)
print("logged", flush=True)
time.sleep(1000)
"""
    process = road.start(program, "trainbus:")
    wait_until(lambda: "logged" in process.stdout, 60)
    process.kill()

    def is_whole() -> bool:
        found = road.look()["runs"].get(("Default", "killed"), {"status": "", "points": {}})
        # The sink writes the status before the last points.
        steps = [step for step, *_ in found["points"].get("m", [])]
        return found["status"] == "KILLED" and steps == list(range(200))

    wait_until(is_whole, 60)
