"""The stand-in of ClearML enforces what the real server enforces."""

from __future__ import annotations

import math
import urllib.error
import urllib.request
from http.client import RemoteDisconnected
from typing import Any

import pytest

from tests.fixtures.clearml.client import Answer, Client
from tests.fixtures.clearml.events import MAX_LAST_METRICS
from tests.fixtures.clearml.server import SINGLE_VALUE_ITERATION, ClearmlServer


@pytest.fixture
def client(clearml_server: ClearmlServer) -> Client:
    return Client(clearml_server)


def scalar(task: str, iteration: int = 1, **fields: Any) -> dict[str, Any]:
    event = {"type": "training_stats_scalar", "task": task, "iter": iteration, "timestamp": 1000}
    return {**event, "metric": "train", "variant": "loss", "value": 0.5, **fields}


def code(answer: Answer) -> tuple[int, int]:
    return answer.status, answer.subcode


def test_only_a_key_and_secret_or_a_token_let_one_in(client: Client) -> None:
    assert code(client.login(secret="wrong")) == (401, 22)
    assert client.login().status == 200
    client.token = ""
    assert code(client.call("tasks.get_all")) == (401, 20)
    client.token = "made up"
    assert code(client.call("tasks.get_all")) == (401, 30)


def test_expired_tokens_are_refused_until_one_logs_in_again(
    clearml_server: ClearmlServer, client: Client
) -> None:
    clearml_server.faults.expire_tokens()
    assert code(client.call("tasks.get_all")) == (401, 30)
    client.token = client.login().data["token"]
    assert client.call("tasks.get_all").status == 200


def test_a_projects_name_is_unique_and_its_path_made_of_projects(client: Client) -> None:
    client.ok("projects.create", name="team//digits ")
    assert code(client.call("projects.create", name="team/digits")) == (400, 801)
    assert code(client.call("projects.create", name="team")) == (400, 801)
    assert code(client.call("projects.create", name="team/ab")) == (400, 12)
    assert code(client.call("projects.create", name=" / ")) in {(400, 12), (400, 407)}
    (found,) = client.ok("projects.get_all", name="^team/digits$")["projects"]
    assert found["basename"] == "digits"


@pytest.mark.parametrize("name", ["ab", " ab ", ""])
def test_short_names_are_refused(client: Client, name: str) -> None:
    assert client.call("tasks.create", name=name, type="training").status == 400
    assert client.call("models.create", name=name, uri="file:///x").status == 400


def test_the_state_machine_is_kept_unless_forced(
    clearml_server: ClearmlServer, client: Client
) -> None:
    task = client.task()
    assert code(client.call("tasks.completed", task=task)) == (400, 110)
    client.ok("tasks.started", task=task)
    client.ok("tasks.started", task=task)
    client.ok("tasks.failed", task=task, status_reason="out of memory")
    assert clearml_server.task(task)["status_reason"] == "out of memory"
    assert code(client.call("tasks.started", task=task)) == (400, 110)
    client.ok("tasks.started", task=task, force=True)
    client.ok("tasks.completed", task=task)
    client.ok("tasks.stopped", task=task, force=True)
    assert clearml_server.status(task) == "stopped"
    assert code(client.call("tasks.stopped", task="nobody", force=True)) == (400, 101)


def test_an_edit_needs_force_and_replaces_all_hyperparameters(
    clearml_server: ClearmlServer, client: Client
) -> None:
    task = client.task()
    item = {"section": "General", "name": "lr", "value": "0.1"}
    client.ok("tasks.edit", task=task, hyperparams={"General": {"lr": item}})
    client.ok("tasks.started", task=task)
    assert code(client.call("tasks.edit", task=task, tags=["tag"])) == (400, 110)
    other = {"section": "Other", "name": "n", "value": "1"}
    client.ok("tasks.edit", task=task, force=True, hyperparams={"Other": {"n": other}})
    assert clearml_server.hyperparams(task) == {"Other": {"n": "1"}}
    client.ok("tasks.edit_hyper_params", task=task, force=True, hyperparams=[item])
    assert clearml_server.hyperparams(task) == {"Other": {"n": "1"}, "General": {"lr": "0.1"}}
    number = {**item, "value": 0.1}
    answer = client.call("tasks.edit_hyper_params", task=task, force=True, hyperparams=[number])
    assert code(answer) == (400, 12)
    for wrong in ([], [{**item, "section": ""}], [{"section": "General", "name": "lr"}]):
        assert client.call("tasks.edit_hyper_params", task=task, hyperparams=wrong).status == 400


def test_of_an_ended_task_only_user_properties_may_be_edited(
    clearml_server: ClearmlServer, client: Client
) -> None:
    task = client.task()
    client.ok("tasks.completed", task=task, force=True)
    item = {"section": "General", "name": "lr", "value": "0.1"}
    answer = client.call("tasks.edit_hyper_params", task=task, force=True, hyperparams=[item])
    assert code(answer) == (400, 110)
    mark = {"section": "properties", "name": "trainbus.marks", "value": "1-9"}
    client.ok("tasks.edit_hyper_params", task=task, hyperparams=[mark])
    assert clearml_server.hyperparams(task) == {"properties": {"trainbus.marks": "1-9"}}
    model = client.ok("models.create", name="best", uri="file:///best.pt")["id"]
    entry = {"task": task, "name": "best", "model": model, "type": "output"}
    assert code(client.call("tasks.add_or_update_model", **entry)) == (400, 110)
    client.ok("tasks.started", task=task, force=True)
    client.ok("tasks.add_or_update_model", **entry)
    client.ok("tasks.add_or_update_model", **entry)
    assert list(clearml_server.models(task)) == ["best"]


def test_a_model_created_twice_is_two_models(clearml_server: ClearmlServer, client: Client) -> None:
    first, second = (client.ok("models.create", name="best", uri="u")["id"] for _ in range(2))
    assert first != second
    client.ok("models.edit", model=second, labels={"cat": 1}, uri="v")
    assert code(client.call("models.edit", model=second, labels={"cat": "1"})) == (400, 12)
    assert [one["id"] for one in client.ok("models.get_all", uri=["v"])["models"]] == [second]


def test_tasks_are_found_by_tag_id_and_page(client: Client) -> None:
    tasks = [client.task(name=f"task {number}") for number in range(4)]
    for number, task in enumerate(tasks):
        client.ok("tasks.edit", task=task, tags=["all", f"trainbus-run:{number}"])

    def found(**body: Any) -> list[str]:
        return [one["id"] for one in client.ok("tasks.get_all", **body)["tasks"]]

    assert found(tags=["trainbus-run:2"]) == [tasks[2]]
    assert found(tags=["trainbus-run:1", "trainbus-run:2"]) == tasks[1:3]
    assert found(tags=["__$all", "all", "trainbus-run:1"]) == [tasks[1]]
    assert found(tags=["all", "-trainbus-run:1"]) == [tasks[0], *tasks[2:]]
    assert found(id=[tasks[3]]) == [tasks[3]]
    assert found(page=1, page_size=3) == [tasks[3]]
    assert found(order_by=["-name"], page_size=1) == [tasks[3]]
    (one,) = client.ok("tasks.get_all", id=[tasks[0]], only_fields=["status"])["tasks"]
    assert one == {"id": tasks[0], "status": "created"}


def test_events_count_only_in_lines_of_the_exact_type(
    clearml_server: ClearmlServer, client: Client
) -> None:
    task = client.task()
    for wrong in ("application/json", "application/json-lines; charset=utf-8", "text/plain"):
        assert client.events([scalar(task)], wrong).status == 400
    answer = client.events([scalar(task), scalar(task, 2)])
    assert answer.data == {"added": 2, "errors": 0, "errors_info": {}}
    assert clearml_server.scalars(task) == {("train", "loss"): {1: 0.5, 2: 0.5}}
    assert clearml_server.task(task)["last_iteration"] == 2


def test_an_event_sent_again_overwrites_and_a_dash_can_collide(
    clearml_server: ClearmlServer, client: Client
) -> None:
    task = client.task()
    client.events([scalar(task, value=1.0), scalar(task, value=2.0)])
    assert clearml_server.scalars(task) == {("train", "loss"): {1: 2.0}}
    client.events(
        [scalar(task, metric="a-b", variant="c"), scalar(task, metric="a", variant="b-c")]
    )
    assert ("a-b", "c") not in clearml_server.scalars(task)
    assert ("a", "b-c") in clearml_server.scalars(task)
    log = {"type": "log", "task": task, "msg": "epoch 1", "timestamp": 1000}
    client.events([log, log])
    assert len(clearml_server.events(task, "log")) == 2


def test_a_part_that_is_refused_is_still_200_and_all_of_it_400(
    clearml_server: ClearmlServer, client: Client
) -> None:
    task = client.task()
    answer = client.events([scalar(task), scalar("nobody"), {"type": "odd", "task": task}])
    assert (answer.status, answer.data["added"], answer.data["errors"]) == (200, 1, 2)
    assert "Invalid task id nobody" in answer.data["errors_info"]
    assert code(client.events([scalar("nobody")])) == (400, 131)
    clearml_server.faults.refuse_events(lambda event: event["iter"] == 7)
    answer = client.events([scalar(task, 6), scalar(task, 7)])
    assert (answer.status, answer.data["added"], answer.data["errors"]) == (200, 1, 1)
    assert code(client.events([scalar(task, 7)])) == (400, 131)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e39, "0.5", True])
def test_a_value_the_database_cannot_keep_fails_the_whole_call(
    clearml_server: ClearmlServer, client: Client, value: Any
) -> None:
    task = client.task()
    assert code(client.events([scalar(task, 1), scalar(task, 2, value=value)])) == (500, 100)
    assert clearml_server.scalars(task) == {("train", "loss"): {1: 0.5}}


def test_a_published_task_takes_no_events_and_a_completed_one_does(
    clearml_server: ClearmlServer, client: Client
) -> None:
    task = client.task()
    client.ok("tasks.completed", task=task, force=True)
    assert client.events([scalar(task)]).status == 200
    clearml_server.publish(task)
    assert code(client.events([scalar(task)])) == (400, 131)
    assert client.events([scalar(task, allow_locked=True)]).status == 200


def test_a_task_keeps_the_last_values_of_two_thousand_metrics(
    clearml_server: ClearmlServer, client: Client
) -> None:
    task = client.task()
    client.events([scalar(task, variant=f"v{n}") for n in range(MAX_LAST_METRICS + 10)])
    (variants,) = clearml_server.task(task)["last_metrics"].values()
    assert len(variants) == MAX_LAST_METRICS
    assert len(clearml_server.scalars(task)) == MAX_LAST_METRICS + 10


def test_single_values_stand_apart(clearml_server: ClearmlServer, client: Client) -> None:
    task = client.task()
    client.events([scalar(task, SINGLE_VALUE_ITERATION, metric="Summary", variant="mAP50")])
    assert clearml_server.single_values(task) == {"mAP50": 0.5}
    assert clearml_server.scalars(task) == {}


def test_a_body_beyond_the_limit_is_refused(client: Client) -> None:
    assert client.call("tasks.get_all", name="x" * 17_000_000).status == 413


def test_calls_that_fail_are_those_asked_for(clearml_server: ClearmlServer, client: Client) -> None:
    faults = clearml_server.faults
    faults.answer("tasks.*", 429, 1, retry_after=2.5, skip=1)
    task = client.task()
    answer = client.call("tasks.ping", task=task)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "2.5")
    client.ok("tasks.ping", task=task)
    faults.drop("tasks.ping", 1)
    faults.drop("tasks.started", 1, is_done=True)
    for endpoint in ("tasks.ping", "tasks.started"):
        with pytest.raises((RemoteDisconnected, ConnectionError, urllib.error.URLError)):
            client.call(endpoint, task=task)
    assert clearml_server.status(task) == "in_progress"
    clearml_server.stop()
    with pytest.raises(urllib.error.URLError):
        client.call("tasks.ping", task=task)
    clearml_server.start()
    client.ok("tasks.ping", task=task)


def test_a_call_may_be_late_or_never_answered(
    clearml_server: ClearmlServer, client: Client
) -> None:
    faults = clearml_server.faults
    task = client.task()
    client.seconds = 0.3
    faults.hang("tasks.ping", 1)
    with pytest.raises(TimeoutError):
        client.call("tasks.ping", task=task)
    client.ok("tasks.ping", task=task)
    faults.slow("tasks.*", 5.0)
    with pytest.raises(TimeoutError):
        client.call("tasks.ping", task=task)
    faults.clear()
    client.ok("tasks.ping", task=task)


def test_the_file_server_keeps_what_is_named_by_its_path(
    clearml_server: ClearmlServer, client: Client
) -> None:
    boundary = "the-boundary"
    head = 'Content-Disposition: form-data; name="project/a b.txt"; filename="x"'
    body = f"--{boundary}\r\n{head}\r\n\r\ncontent\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(
        f"{clearml_server.files_url}/",
        data=body,
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 200
    assert clearml_server.file(f"{clearml_server.files_url}/project/a%20b.txt") == b"content"
    url = f"{clearml_server.files_url}/project/a%20b.txt"
    with urllib.request.urlopen(url, timeout=10) as reply:
        assert reply.read() == b"content"
    with pytest.raises(urllib.error.HTTPError), urllib.request.urlopen(f"{url}x", timeout=10):
        pass


def test_the_watchdog_stops_tasks_that_were_silent(
    clearml_server: ClearmlServer, client: Client
) -> None:
    silent, alive = client.task(name="silent"), client.task(name="alive")
    seconds = 1e9
    clearml_server.store.clock = lambda: seconds
    client.ok("tasks.started", task=silent)
    client.ok("tasks.started", task=alive)
    seconds += 7200
    client.ok("tasks.ping", task=alive)
    assert clearml_server.stop_silent_tasks(clearml_server.store.now()) == [silent]
    assert clearml_server.status(silent) == "stopped"
