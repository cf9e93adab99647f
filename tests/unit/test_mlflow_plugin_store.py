"""The MLflow plugin in process: what MLflow's calls write into the journal, and answer."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator

import pytest
from mlflow.entities import ExperimentTag, Metric, Param, RunStatus, RunTag, ViewType
from mlflow.exceptions import MlflowException

from publishers.integrations.mlflow.store import TrainbusStore
from tests.fixtures.spool import Spool
from tests.unit.mlflow_plugin import MS, Plugin, rows


@pytest.fixture
def plugin(spool: Spool) -> Iterator[Plugin]:
    built = Plugin(spool)
    yield built
    built.ledger.wait(0.0)
    built.ledger.kept.close()


def test_a_run_begins_with_its_name_tags_notes_and_parent(plugin: Plugin) -> None:
    tags = {"mlflow__parentRunId": "p1", "mlflow__note__content": "why", "team": "vision"}
    run_id = plugin.start("first", **tags, mlflow__source__name="train.py")
    (started,) = plugin.all("run_started")
    assert (started["parent"], started["notes"]) == ("p1", "why")
    assert started["tags"] == {"team": "vision", "mlflow.source.name": "train.py"}
    assert started.get("world", {}) in ({}, {"nodes": 1, "ranks": 1})
    header = plugin.spool.payloads()[0]
    assert (header["project"], header["run_name"], header["run"]) == ("digits", "first", run_id)
    run = plugin.store.get_run(run_id)
    assert run.data.tags["mlflow.parentRunId"] == "p1"
    assert run.data.tags["mlflow.runName"] == run.info.run_name == "first"


def test_points_keep_their_own_time_and_share_a_row_where_they_can(plugin: Plugin) -> None:
    run_id = plugin.start()
    metrics = [Metric("a", 1.0, MS, 5), Metric("b", 2.0, MS, 5), Metric("a", 3.0, MS + 1, 6)]
    plugin.store.log_batch(run_id, metrics, [], [])
    plugin.store.log_metric(run_id, Metric("a", math.nan, MS + 2, 7))
    assert [row[1:] for row in rows(plugin)] == [
        [MS / 1000, 5, 1.0, 2.0],
        [(MS + 1) / 1000, 6, 3.0],
        [(MS + 2) / 1000, 7, "NaN"],
    ]
    assert [round(row[1] * 1000) - MS for row in rows(plugin)] == [0, 1, 2]


def test_the_same_name_twice_at_one_time_is_two_points(plugin: Plugin) -> None:
    run_id = plugin.start()
    plugin.store.log_batch(run_id, [Metric("a", v, MS, 0) for v in (1.0, 2.0)], [], [])
    assert [row[3] for row in rows(plugin)] == [1.0, 2.0]


def test_a_param_is_not_changed_and_nothing_of_the_batch_is_logged_then(plugin: Plugin) -> None:
    run_id = plugin.start()
    plugin.store.log_param(run_id, Param("lr", "0.1"))
    plugin.store.log_param(run_id, Param("lr", "0.1"))
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        plugin.store.log_batch(run_id, [Metric("m", 1.0, MS, 0)], [Param("lr", "2")], [])
    with pytest.raises(MlflowException, match="Changing param"):
        plugin.store.log_batch(run_id, [], [Param("x", "1"), Param("x", "2")], [])
    assert [one["params"] for one in plugin.all("params")] == [{"lr": "0.1"}]
    assert rows(plugin) == []


@pytest.mark.parametrize(
    "metric",
    [Metric("m", "x", MS, 0), Metric("m", 1.0, -1, 0), Metric("m", 1.0, 2**63, 0),
     Metric("m", 1.0, MS, 2**63), Metric("m", 1.0, None, 0)],
)  # fmt: skip
def test_a_point_that_is_none_is_refused_as_mlflow_does(plugin: Plugin, metric: Metric) -> None:
    run_id = plugin.start()
    with pytest.raises(MlflowException, match=r"is no number|out of range"):
        plugin.store.log_metric(run_id, metric)
    assert rows(plugin) == []


def test_a_time_that_no_event_can_have_is_counted_and_not_raised(plugin: Plugin) -> None:
    run_id = plugin.start()
    plugin.store.log_metric(run_id, Metric("m", 1.0, 2**60, 0))
    assert plugin.ledger.run(run_id)._bus.dropped == {"bad_value": 1}


def test_tags_are_set_and_emptied(plugin: Plugin) -> None:
    run_id = plugin.start()
    plugin.store.set_tag(run_id, RunTag("a", "1"))
    plugin.store.delete_tag(run_id, "a")
    assert [one["set"] for one in plugin.all("tags")] == [{"a": "1"}, {"a": ""}]
    assert "a" not in plugin.store.get_run(run_id).data.tags
    with pytest.raises(MlflowException, match="No tag with name"):
        plugin.store.delete_tag(run_id, "a")
    with pytest.raises(MlflowException, match="is set when a run is made"):
        plugin.store.set_tag(run_id, RunTag("mlflow.parentRunId", "x"))


@pytest.mark.parametrize(
    ("status", "word"), [("FINISHED", "completed"), ("FAILED", "failed"), ("KILLED", "killed")]
)
def test_the_end_of_a_run_does_not_wait(plugin: Plugin, status: str, word: str) -> None:
    run_id = plugin.start()
    begun = time.monotonic()
    plugin.store.update_run_info(run_id, RunStatus.from_string(status), MS + 9, None)
    assert time.monotonic() - begun < 1.0
    assert [one["status"] for one in plugin.all("run_finished")] == [word]
    info = plugin.store.get_run(run_id).info
    assert (info.status, info.end_time) == (status, MS + 9)


def test_what_comes_after_the_end_is_another_attempt_with_the_same_end(plugin: Plugin) -> None:
    run_id = plugin.start()
    plugin.store.update_run_info(run_id, RunStatus.FAILED, MS, None)
    plugin.store.log_metric(run_id, Metric("late", 1.0, MS, 0))
    assert [one.get("attempt", 1) for one in plugin.all("run_started")] == [1, 2]
    assert [one["status"] for one in plugin.all("run_finished")] == ["failed", "failed"]
    plugin.store.update_run_info(run_id, RunStatus.FINISHED, MS, None)
    assert [one["status"] for one in plugin.all("run_finished")][-1] == "completed"
    plugin.store.update_run_info(run_id, RunStatus.RUNNING, None, None)
    assert len(plugin.all("run_started")) == 4
    assert len(plugin.all("run_finished")) == 3


def test_several_runs_and_threads_keep_apart(plugin: Plugin) -> None:
    ids = [plugin.start(f"run {number}") for number in range(4)]

    def log(run_id: str) -> None:
        for step in range(200):
            plugin.store.log_metric(run_id, Metric("m", float(step), MS + step, step))

    threads = [threading.Thread(target=log, args=(run_id,)) for run_id in ids for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(plugin.spool.points(source)) for source in plugin.spool.sources()] == [400] * 4
    assert len(plugin.store.get_metric_history(ids[0], "m")) == 400


def test_asynchronous_logging_is_done_when_it_returns(plugin: Plugin) -> None:
    run_id = plugin.start()
    done = plugin.store.log_metric_async(run_id, Metric("m", 1.0, MS, 0))
    assert len(rows(plugin)) == 1
    done.wait()
    failed = plugin.store.log_param_async(run_id, Param("p", "1"))
    failed.wait()
    with pytest.raises(MlflowException, match="Changing param"):
        plugin.store.log_param_async(run_id, Param("p", "2")).wait()


def test_runs_are_searched_among_those_of_this_process(plugin: Plugin) -> None:
    good, bad = plugin.start("good"), plugin.start("bad")
    plugin.store.log_metric(good, Metric("acc", 0.9, MS, 0))
    plugin.store.log_metric(bad, Metric("acc", 0.1, MS, 0))
    experiment = plugin.store.get_run(good).info.experiment_id
    found = plugin.store.search_runs([experiment], "metrics.acc > 0.5", ViewType.ACTIVE_ONLY)
    assert [run.info.run_name for run in found] == ["good"]
    assert plugin.store.search_runs([experiment], "", ViewType.DELETED_ONLY) == []
    names = [one.name for one in plugin.store.search_experiments(filter_string="name = 'digits'")]
    assert names == ["digits"]


def test_what_another_process_made_is_an_error_that_says_whom_to_ask(plugin: Plugin) -> None:
    with pytest.raises(MlflowException, match="MLFLOW_RUN_ID=abc") as raised:
        plugin.store.get_run("abc")
    assert raised.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    with pytest.raises(MlflowException, match="ask the tracking server"):
        plugin.store.get_logged_model("m-1")
    with pytest.raises(MlflowException, match="set MLFLOW_EXPERIMENT_NAME instead"):
        plugin.store.get_experiment("17")
    with pytest.raises(MlflowException, match="leave it out: artifacts go to the store"):
        plugin.store.create_experiment("x", "s3://bucket", [])
    assert plugin.store.get_experiment_by_name("nobody's") is None


def test_a_run_that_another_process_began_is_gone_on_with(spool: Spool) -> None:
    plugin = Plugin(spool, MLFLOW_RUN_ID="r1", MLFLOW_EXPERIMENT_ID="p-digits")
    assert plugin.store.get_run("r1").info.experiment_id == "p-digits"
    (started,) = plugin.all("run_started")
    assert started["attempt"] == 2
    assert spool.payloads()[0]["project"] == "digits"


def test_the_wrappers_run_id_and_project_are_taken_once(spool: Spool) -> None:
    plugin = Plugin(spool, TRAINBUS_RUN_ID="job-7", TRAINBUS_PROJECT="team")
    first = plugin.start(experiment="Default")
    assert first == "job-7"
    assert plugin.start("child", mlflow__parentRunId=first) != "job-7"
    projects = {spool.payloads(source)[0]["project"] for source in spool.sources()}
    assert projects == {"team", "digits"}


def test_a_wrong_uri_or_setting_says_what_is_right(spool: Spool) -> None:
    with pytest.raises(MlflowException, match="TRAINBUS_BROKER"):
        TrainbusStore("trainbus://host:1883", ledger=Plugin(spool).ledger)
    plugin = Plugin(spool, TRAINBUS_RUN_ID="a/b")
    assert plugin.start() != "a/b"


def test_tags_of_an_experiment_go_with_its_runs(plugin: Plugin) -> None:
    plugin.store.set_experiment_tag("0", ExperimentTag("owner", "me"))
    plugin.start(experiment="Default")
    assert plugin.all("run_started")[0]["tags"] == {"experiment.owner": "me"}
    plugin.store.delete_experiment_tag("0", "owner")
    with pytest.raises(MlflowException, match="has no tag"):
        plugin.store.delete_experiment_tag("0", "owner")


def test_in_a_forked_child_the_parents_runs_take_nothing(plugin: Plugin) -> None:
    run_id = plugin.start()
    plugin.store.log_metric(run_id, Metric("m", 1.0, MS, 0))
    child = os.fork()
    if child == 0:
        plugin.ledger.reset_after_fork()
        plugin.store.log_metric(run_id, Metric("m", 2.0, MS, 1))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert [row[3] for row in rows(plugin)] == [1.0]
