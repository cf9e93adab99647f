"""Models with a key in the MLflow sink: several events, one model; killed in between, still one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mlflow.tracking import MlflowClient

from bus.artifacts import ArtifactStore
from bus.events import Event
from bus.kinds import Model, RunStarted
from subscribers.mlflow import models
from subscribers.mlflow.sink import MlflowSink
from tests.integration.mlflow_feed import START, Feed, make_sink, marks_of, run_in


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow keys') / 'mlflow.db'}"


@pytest.fixture
async def sink(uri: str, tmp_path: Path) -> AsyncIterator[MlflowSink]:
    made = make_sink(uri, tmp_path)
    yield made
    await made.close()


@pytest.fixture
def client(uri: str, sink: MlflowSink) -> MlflowClient:
    return MlflowClient(uri, uri)


@pytest.fixture
def feed() -> Feed:
    return Feed(f"run {uuid4().hex[:6]}", f"project {uuid4().hex[:8]}")


class Models:
    """Events of models, whose bytes are always the same."""

    def __init__(self, feed: Feed, folder: Path) -> None:
        self.feed = feed
        source = folder / "saved"
        source.mkdir()
        (source / "MLmodel").write_text("flavors: {}\n")
        store = ArtifactStore((folder / "store").as_uri())
        self.blob, self.url = feed.stored(store, source)

    def event(self, key: str, registered: str | None = None, **said: Any) -> Event:
        data = Model(
            "clf",
            self.blob,
            "mlflow",
            registered_name=registered,
            key=key,
            options={"mlflow": said} if said else {},
        )
        return self.feed.event("model", data, self.url)


@pytest.fixture
async def made(feed: Feed, tmp_path: Path) -> Models:
    return await asyncio.to_thread(Models, feed, tmp_path)


async def test_a_later_event_of_a_key_adds_to_the_model(
    sink: MlflowSink, client: MlflowClient, made: Models
) -> None:
    feed = made.feed
    registered = f"reg {feed.ref.project}"
    point = ["acc", int(START * 1000), 0, 0.5, None, None]
    events = [
        feed.started(),
        made.event("m-1", params={"depth": "3"}, tags={"team": "a"}, model_type="agent"),
        made.event("m-1", registered, version={"tags": {"by": "me"}, "description": "why"}),
        made.event("m-1", params={"depth": "4", "lr": "1"}, tags={"team": "b"}, points=[point]),
        made.event("m-2"),
    ]
    await sink.open_run(feed.ref)
    for end in range(1, len(events) + 1):
        await sink.write(feed.ref, events[end - 1 : end], marks_of(events[:end]))
    # A takeover that has lost its marks writes all of it once more.
    await sink.write(feed.ref, events, marks_of(events))
    run = await run_in(client, feed.ref)
    found = client.search_logged_models([run.info.experiment_id])
    assert len(found) == 2
    (model,) = (one for one in found if one.params)
    assert (model.params, model.tags["team"]) == ({"depth": "3", "lr": "1"}, "b")
    assert model.model_type == "agent"
    assert [(metric.key, metric.value) for metric in model.metrics] == [("acc", 0.5)]
    (version,) = client.search_model_versions(f"name = '{registered}'")
    assert (version.tags["by"], version.description) == ("me", "why")
    assert version.run_id == run.info.run_id


async def test_the_same_key_in_another_run_is_another_model(
    sink: MlflowSink, client: MlflowClient, made: Models
) -> None:
    feed = made.feed
    other = Feed("other", feed.ref.project)
    await sink.open_run(feed.ref)
    await sink.write(feed.ref, [feed.started(), made.event("m-1")], marks_of([]))
    made.feed = other
    await sink.open_run(other.ref)
    await sink.write(other.ref, [other.started(), made.event("m-1")], marks_of([]))
    run = await run_in(client, feed.ref)
    assert len(client.search_logged_models([run.info.experiment_id])) == 2


async def test_the_version_that_the_run_asks_for_is_made_once_per_model(
    sink: MlflowSink, client: MlflowClient, made: Models
) -> None:
    feed = made.feed
    name = f"asked {feed.ref.project}"
    started = feed.event(
        "run_started", RunStarted(options={"mlflow": {"registered_model_name": name}})
    )
    await sink.open_run(feed.ref)
    events = [started, made.event("m-1"), made.event("m-1", tags={"a": "b"})]
    await sink.write(feed.ref, events, marks_of(events))
    assert len(client.search_model_versions(f"name = '{name}'")) == 1


async def test_a_worker_killed_before_the_registration_goes_on(
    sink: MlflowSink, client: MlflowClient, made: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = made.feed
    registered = f"killed {feed.ref.project}"
    events = [feed.started(), made.event("m-1"), made.event("m-1", registered)]
    await sink.open_run(feed.ref)
    register = models._register

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(models, "_register", killed)
        with pytest.raises(KeyboardInterrupt):
            await sink.write(feed.ref, events, marks_of(events))
    assert models._register is register
    await sink.write(feed.ref, events, marks_of(events))
    run = await run_in(client, feed.ref)
    assert len(client.search_logged_models([run.info.experiment_id])) == 1
    assert len(client.search_model_versions(f"name = '{registered}'")) == 1
