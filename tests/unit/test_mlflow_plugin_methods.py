"""No method of MLflow's stores is left to the base class, which would return None."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.model_registry.abstract_store import AbstractStore as RegistryBase
from mlflow.store.tracking.abstract_store import AbstractStore as TrackingBase

from publishers.integrations.mlflow.artifacts import TrainbusArtifactRepository
from publishers.integrations.mlflow.ledger import Ledger
from publishers.integrations.mlflow.registry import TrainbusRegistry
from publishers.integrations.mlflow.store import _WORK_AS_THEY_ARE, TrainbusStore
from publishers.integrations.mlflow.unsupported import refuse_the_rest

PAIRS = [(TrainbusStore, TrackingBase), (TrainbusRegistry, RegistryBase)]

METHODS = [
    (ours, name)
    for ours, base in PAIRS
    for name in dir(base)
    if not name.startswith("__") and callable(getattr(base, name))
]

PRIVATE = {
    # Pure helpers of methods that are refused, or kept.
    "_await_model_version_creation_impl",
    "_delete_traces",
    "_evenly_spaced_indices",
    "_load_dataset_records",
    "_parse_experiment_id_filter",
}

WITHOUT_ANSWER = {
    # These do what they are asked and have nothing to say, in MLflow's own stores too.
    "delete_experiment_tag",
    "delete_logged_model_tag",
    "delete_tag",
    "log_batch",
    "log_inputs",
    "log_logged_model_params",
    "log_metric",
    "log_outputs",
    "log_param",
    "record_logged_model",
    "set_experiment_tag",
    "set_logged_model_tags",
    "set_tag",
    "_await_model_version_creation",
}


def defined_in(cls: type, name: str) -> type:
    return next(one for one in cls.__mro__ if name in vars(one))


@pytest.fixture
def stores(tmp_path: Path) -> dict[type, Any]:
    ledger = Ledger({"TRAINBUS_HOME": str(tmp_path)})
    return {
        TrainbusStore: TrainbusStore("trainbus:", ledger=ledger),
        TrainbusRegistry: TrainbusRegistry("trainbus:", ledger=ledger),
    }


@pytest.mark.parametrize(("ours", "name"), METHODS, ids=lambda one: getattr(one, "__name__", one))
def test_every_method_works_or_says_what_to_use_instead(
    ours: type, name: str, stores: dict[type, Any]
) -> None:
    owner = defined_in(ours, name)
    if owner.__module__.startswith("mlflow."):
        assert name in _WORK_AS_THEY_ARE | PRIVATE
        return
    method: Callable[..., Any] = getattr(stores[ours], name)
    if "arguments" not in inspect.signature(method).parameters:
        # Written out: what it does is tested on its own. Its annotation says what it gives.
        returned = inspect.signature(method).return_annotation
        assert (returned == "None") == (name in WITHOUT_ANSWER)
        return
    with pytest.raises(MlflowException, match="only publishes: use the tracking server") as raised:
        method(1, two=2)
    assert name in str(raised.value)


def test_a_later_mlflow_cannot_bring_a_method_that_answers_nothing() -> None:
    class Base:
        def new_in_mlflow_9(self) -> None: ...

        def kept(self) -> int:
            return 1

    @refuse_the_rest(Base, {"kept"})
    class Ours(Base):
        pass

    assert Ours().kept() == 1
    with pytest.raises(MlflowException, match="new_in_mlflow_9 does not work with"):
        Ours().new_in_mlflow_9()


def test_the_artifact_repository_has_what_mlflow_leaves_open() -> None:
    opened = ["log_artifact", "log_artifacts", "list_artifacts", "delete_artifacts"]
    for name in [*opened, "_download_file"]:
        assert hasattr(ArtifactRepository, name)
        assert defined_in(TrainbusArtifactRepository, name) is TrainbusArtifactRepository
