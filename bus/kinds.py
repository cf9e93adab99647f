"""What each kind of event carries: the ``data`` of the CloudEvent, one Struct per kind.

The Structs are the schema: decoding checks against them, and the JSON Schema and AsyncAPI
documents are generated from them. Fields unknown to this version are ignored, so that an older
worker reads what a newer publisher sends.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

__all__ = [
    "KINDS",
    "Artifact",
    "Blob",
    "Checkpoint",
    "Console",
    "Git",
    "Image",
    "Kind",
    "KindData",
    "Metrics",
    "Model",
    "NonFinite",
    "Number",
    "Params",
    "Phase",
    "Plot",
    "RunFinished",
    "RunStarted",
    "RunStatus",
    "Summary",
    "System",
    "Table",
    "Tags",
    "World",
]


class NonFinite(StrEnum):
    """JSON has no word for these; ``float(NonFinite.NAN)`` gives the float back."""

    NAN = "NaN"
    INFINITY = "Infinity"
    NEGATIVE_INFINITY = "-Infinity"


Number = int | float | NonFinite
"""A metric value on the wire; ``float()`` of any of them is what arrives at a sink."""

RunStatus = Literal["completed", "failed", "killed"]

_Name = Annotated[str, Meta(min_length=1, max_length=1024)]
_Count = Annotated[int, Meta(ge=0)]
_Positive = Annotated[int, Meta(ge=1)]


class Blob(Struct, frozen=True):
    """Bytes that travel through the artifact store; ``dataref`` of the event says where they are.

    Attributes:
        name: File or folder name, for the tracker to show.
        size: Bytes in all.
        sha256: Of the file, lower-case hex; of the manifest when it is a folder.
        is_folder: ``dataref`` names a manifest (:mod:`bus.artifacts`) and not the bytes.
    """

    name: _Name
    size: _Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    is_folder: bool = False


class World(Struct, frozen=True, omit_defaults=True):
    """How many nodes and ranks a run has; the run ends when every rank has finished."""

    nodes: _Positive = 1
    ranks: _Positive = 1


class Git(Struct, frozen=True, omit_defaults=True):
    """The state of the working tree that was trained from."""

    commit: str
    branch: str = ""
    remote: str = ""
    is_dirty: bool = False


class RunStarted(Struct, frozen=True, omit_defaults=True, tag_field=None):
    """A process of a run has begun.

    Attributes:
        rank: Rank of this process in the world, from 0.
        attempt: Which try of this rank it is, from 1; the highest counts.
        parent: Run id of the run this one is nested in.
        sinks: Names of the sinks this run goes to; None for all of them.
        options: Per sink, what only that sink understands (registered model name, model id, …).
        config: Whatever describes the run and is not a parameter.
        loss: As in RunFinished: even, when a node that was lost has returned.
    """

    rank: _Count = 0
    attempt: _Positive = 1
    world: World = World()
    tags: dict[str, str] = {}
    notes: str = ""
    parent: str | None = None
    framework: str | None = None
    host: str = ""
    user: str = ""
    program: str = ""
    git: Git | None = None
    config: dict[str, Any] = {}
    sinks: list[str] | None = None
    options: dict[str, dict[str, Any]] = {}
    loss: _Count = 0


class Params(Struct, frozen=True):
    """Parameters of a run, in a named section ("General" unless the caller says otherwise)."""

    section: _Name
    params: dict[_Name, Any]


class Table(Struct, frozen=True):
    """Rows that share their keys.

    Attributes:
        keys: The names of the metrics, in the order of the values.
        rows: Per call: time (Unix seconds), step, then one value per key.
    """

    keys: list[_Name]
    rows: list[list[Number]]


class Metrics(Struct, frozen=True):
    """Metric points, columnar."""

    tables: list[Table]


class Summary(Struct, frozen=True, omit_defaults=True):
    """Single values of the whole run; the last one written counts.

    Attributes:
        step: For sinks that know single values only as points of a metric.
    """

    values: dict[_Name, Number]
    step: int | None = None


class Tags(Struct, frozen=True):
    """Tags to set; a later value of a name replaces the earlier."""

    set: dict[_Name, str]


class Image(Struct, frozen=True, omit_defaults=True):
    """A picture by title, series and step."""

    title: _Name
    series: _Name
    blob: Blob
    step: int | None = None


class Plot(Struct, frozen=True, omit_defaults=True):
    """A plot as a picture or HTML page, by title, series and step."""

    title: _Name
    series: _Name
    blob: Blob
    step: int | None = None


class Artifact(Struct, frozen=True):
    """A file or folder.

    Attributes:
        path: Where it stands among the run's artifacts: relative, ``/`` between levels.
    """

    path: _Name
    blob: Blob


class Checkpoint(Struct, frozen=True, omit_defaults=True):
    """Weights during or after training."""

    blob: Blob
    epoch: int | None = None
    is_best: bool = field(default=False, name="best")
    is_final: bool = field(default=False, name="final")
    fitness: Number | None = None


class Model(Struct, frozen=True, omit_defaults=True):
    """A finished model: an MLmodel folder, or one file.

    Attributes:
        flavor: "mlflow" for an MLmodel folder, else whatever names the format.
        registered_name: Create a version under this name in the tracker's registry.
        key: Names the model among the run's: a later event of the same key is the same model,
            to be registered, say. Without one every event is a model of its own.
        options: Per sink, what only that sink understands.
    """

    name: _Name
    blob: Blob
    flavor: str = ""
    signature: dict[str, Any] | None = None
    metrics: dict[str, Number] = {}
    registered_name: str | None = None
    key: str = ""
    options: dict[str, dict[str, Any]] = {}


class Phase(Struct, frozen=True, omit_defaults=True):
    """Training, validation, prediction or export began or ended."""

    phase: Literal["train", "val", "predict", "export"]
    state: Literal["started", "ended"]
    args: dict[str, Any] = {}


class Console(Struct, frozen=True):
    """Lines the process printed."""

    lines: list[str]


class System(Struct, frozen=True):
    """Resource readings by name, such as ``cpu.percent``."""

    values: dict[_Name, Number]


class RunFinished(Struct, frozen=True, omit_defaults=True):
    """A process of a run has ended.

    Attributes:
        error: What failed, in words; empty when nothing did.
        last_id: Id of this event: the number of events its source has published.
        dropped: Per cause, what never reached the bus (``disk_full``, ``bad_value``, …).
        rank: As in RunStarted, so that the end can be decided from this event alone.
        attempt: As in RunStarted.
        loss: 0 for the word of the process or its node. The log group counts its own words about
            a node that it cannot hear: odd, the node is lost.
    """

    status: RunStatus
    last_id: _Positive
    error: str = ""
    dropped: dict[str, int] = {}
    rank: _Count = 0
    attempt: _Positive = 1
    loss: _Count = 0


KindData = (
    RunStarted
    | Params
    | Metrics
    | Summary
    | Tags
    | Image
    | Plot
    | Artifact
    | Checkpoint
    | Model
    | Phase
    | Console
    | System
    | RunFinished
)

Kind = Literal[
    "run_started",
    "params",
    "metrics",
    "summary",
    "tags",
    "image",
    "plot",
    "artifact",
    "checkpoint",
    "model",
    "phase",
    "console",
    "system",
    "run_finished",
]

KINDS: dict[str, type[KindData]] = {
    "run_started": RunStarted,
    "params": Params,
    "metrics": Metrics,
    "summary": Summary,
    "tags": Tags,
    "image": Image,
    "plot": Plot,
    "artifact": Artifact,
    "checkpoint": Checkpoint,
    "model": Model,
    "phase": Phase,
    "console": Console,
    "system": System,
    "run_finished": RunFinished,
}
"""Every kind by its name on the wire."""
