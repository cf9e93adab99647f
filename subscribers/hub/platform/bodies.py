"""The ``data`` of each event on Platform's wire, field by field as its own client sends it. Pure.

Fields: https://docs.ultralytics.com/platform/api and the client of ultralytics 8.4.
What the bus does not know is left out where Platform's client may leave it out too, else null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bus.kinds import RunStarted
from subscribers.hub.platform.epochs import Epoch
from subscribers.hub.platform.held import Held, Start
from subscribers.hub.platform.rows import take_model_info
from subscribers.hub.platform.values import Value, finite, json_value

__all__ = [
    "class_names_of",
    "complete_data",
    "console_data",
    "environment_of",
    "epoch_data",
    "failed_data",
    "joined_epoch",
    "model_info_of",
    "started_data",
]

_COMMIT_CHARACTERS = 12


def started_data(start: Start, system: Mapping[str, Any]) -> dict[str, Any]:
    """``training_started``: the arguments are texts there, whatever they are."""
    data: dict[str, Any] = {"trainArgs": start.args}
    if start.epochs is not None:
        data["epochs"] = start.epochs
    if start.device is not None:
        data["device"] = start.device
    return {**data, "environment": start.environment, "system": dict(system)}


def environment_of(data: RunStarted) -> dict[str, Any]:
    """What describes the machine: what the run says in ``config["environment"]`` goes before."""
    git = data.git
    known = {
        "hostname": data.host,
        "command": data.program,
        "environment": data.framework or "",
        "gitRepository": git.remote if git else "",
        "gitBranch": git.branch if git else "",
        "gitCommit": git.commit[:_COMMIT_CHARACTERS] if git else "",
    }
    said = data.config.get("environment")
    more = json_value(said) if isinstance(said, dict) else {}
    return {**{key: value for key, value in known.items() if value}, **more}


def model_info_of(config: Mapping[str, Any]) -> dict[str, Value]:
    """What a run says of its model in ``config["model_info"]``, under the names Ultralytics has."""
    said = config.get("model_info")
    if not isinstance(said, dict):
        return {}
    return take_model_info({k: finite(v) for k, v in said.items() if type(v) in (int, float)})


def class_names_of(config: Mapping[str, Any]) -> list[str] | None:
    """``config["names"]``: a list, or a dict by number, as Ultralytics has them."""
    names = config.get("names")
    if isinstance(names, dict):
        names = list(names.values())
    return [str(name) for name in names] if isinstance(names, list) else None


def epoch_data(held: Held, epoch: Epoch) -> dict[str, Any]:
    """``epoch_end``."""
    data: dict[str, Any] = {
        "epoch": epoch.number,
        "metrics": epoch.metrics,
        "system": epoch.system,
        "fitness": epoch.fitness,
        "best_fitness": epoch.best_fitness,
    }
    if held.model_info and held.model_epoch == epoch.number:
        data["modelInfo"] = held.model_info
    return data


def joined_epoch(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """One ``epoch_end`` that says what two for the same epoch say."""
    fitness = earlier["fitness"] if later["fitness"] is None else later["fitness"]
    metrics = {**earlier["metrics"], **later["metrics"]}
    return {**earlier, **later, "metrics": metrics, "fitness": fitness}


def console_data(number: int, lines: Sequence[str]) -> dict[str, Any]:
    """``console_output``: chunks count from 1."""
    return {"chunkId": number, "content": "\n".join(lines), "lineCount": len(lines)}


def complete_data(held: Held) -> dict[str, Any]:
    """``training_complete``, but for the model and the plots, which are known when it is sent.

    Its metrics are the run's summary; without one those of the last epoch, of which Ultralytics
    counts ``metrics/…`` as results.
    """
    epochs = held.epochs
    last = epochs.last or Epoch(0)
    results = dict(held.summary)
    if not results:
        named = {name: v for name, v in last.metrics.items() if name.startswith("metrics/")}
        results = named or dict(last.metrics)
    fitness = results.pop("fitness", last.fitness)
    best_epoch = epochs.best_epoch if epochs.best_epoch is not None else last.number
    return {
        "results": {
            "metrics": {**results, "fitness": fitness},
            "bestEpoch": best_epoch,
            "bestFitness": epochs.best_fitness,
        },
        "classNames": held.class_names,
        "plots": [],
    }


def failed_data(status: str, error: str) -> dict[str, Any]:
    """``training_failed``, which also stands for a training that was killed."""
    if status == "killed":
        text = f"killed: {error}" if error else "the training process was killed"
    else:
        text = error or "the training failed"
    return {"error": text}
