"""Files that MLflow logs: a copy for this process, and the event that carries them."""

from __future__ import annotations

import logging
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from mlflow.entities import DatasetInput

from publishers.integrations.mlflow import names
from publishers.integrations.mlflow.ledger import Ledger
from publishers.integrations.mlflow.models import KnownModel, Registration
from publishers.run import Run as BusRun

__all__ = ["StepImage", "log_dataset", "log_files", "publish_model", "step_image"]

logger = logging.getLogger(__name__)

_STEP_IMAGE = re.compile(
    r"images/(?P<key>[^/]+)[+%]step[+%](?P<step>-?\d+)[+%]timestamp[+%]\d+[+%][0-9a-f-]{36}"
    r"(?P<small>[+%]compressed)?\.\w+"
)


class StepImage(NamedTuple):
    """A picture by key and step, as ``mlflow.log_image(image, key=…, step=…)`` names its file.

    Attributes:
        is_small: It is the thumbnail that MLflow's pages want beside the picture.
    """

    key: str
    step: int
    is_small: bool


def step_image(path: str) -> StepImage | None:
    """The picture that a path names; None for any other file."""
    found = _STEP_IMAGE.fullmatch(path)
    if found is None:
        return None
    # MLflow writes "~" for the "/" of a key.
    key = found["key"].replace("~", "/").strip("/")
    return StepImage(key or "image", int(found["step"]), found["small"] is not None)


def log_files(ledger: Ledger, owner: str, source: Path, path: str) -> None:
    """Log a file or folder of a run or model.

    Args:
        ledger: Of this process.
        owner: ``runs/{id}`` or ``models/{id}``.
        source: The file or folder.
        path: Where it is to be; empty for a folder that is all there is.
    """
    kind, _, identifier = owner.partition("/")
    if kind == "models":
        ledger.model(identifier)
        with ledger.files_lock:
            # Held until the model is ready and published: nothing else has its files.
            ledger.kept.add(owner, path, source)
        return
    run = ledger.run(identifier)
    # The artifacts of a run have no name as a whole.
    parts = [(source, path)] if path else [(one, one.name) for one in sorted(source.iterdir())]
    with ledger.files_lock:
        copies = [(ledger.kept.add(owner, name, part), part, name) for part, name in parts]

    def write(bus: BusRun) -> None:
        for copy, part, name in copies:
            # What cannot be kept is logged as it is.
            _log_file(bus, copy or part, name, is_frozen=copy is not None)

    # Nobody waits for a long copy but who logs files: it is made, and here it is only linked.
    run.publish(write)
    with ledger.files_lock:
        ledger.kept.release(owner, [copy for copy, _, _ in copies if copy is not None])


def _log_file(bus: BusRun, source: Path, path: str, *, is_frozen: bool) -> None:
    picture = step_image(path)
    if picture is None:
        bus.artifact(source, path, is_frozen=is_frozen)
    elif not picture.is_small:
        bus.image(picture.key, "image", source, picture.step)


def publish_model(
    ledger: Ledger, model: KnownModel, registration: Registration | None = None
) -> bool:
    """Write a model, or what is new about it, to its run.

    Returns:
        False where its files are not there: they could not be copied, or the copy had to go.
    """
    with ledger.files_lock:
        folder = ledger.kept.folder(model.owner)
    if folder is None:
        logger.warning(
            "trainbus: model %r is not published: there is no copy of its files", model.name
        )
        return False
    ledger.run(model.run_id).publish(lambda bus: model.publish(bus, folder, registration))
    with ledger.files_lock:
        # MLflow registers a model right after it has logged it: the last one stays, whatever its
        # size.
        before, ledger.last_model = ledger.last_model, model.owner
        if before != model.owner:
            ledger.kept.release(before)
    return True


def log_dataset(ledger: Ledger, run_id: str, given: DatasetInput) -> None:
    """Log what is known of a dataset: the bus has no kind for it, and a file says it all."""
    dataset = given.dataset
    described: dict[str, Any] = {
        name: getattr(dataset, name)
        for name in ("name", "digest", "source_type", "source", "schema", "profile")
    }
    described["tags"] = {tag.key: tag.value for tag in given.tags}
    with tempfile.TemporaryDirectory(prefix="trainbus-") as folder:
        file = Path(folder) / "dataset.json"
        file.write_bytes(orjson.dumps(described, option=orjson.OPT_INDENT_2))
        name = re.sub(r"[^\w.\-]+", "-", f"{dataset.name}-{dataset.digest}")
        log_files(ledger, f"runs/{run_id}", file, names.join("datasets", f"{name}.json"))
