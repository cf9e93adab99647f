r"""Names as ClearML takes them.

What the server asks for (clearml-server 2.x, ``apiserver/database/model``): names of projects,
tasks and models are stripped and have three characters or more; a project is a path of up to ten
levels without empty ones; names of parameters are stripped and not empty; tags do not begin with
``__$``. Metrics and variants may be any text.

A name that has to change ends in ``-x`` and ten hex digits of the sha256 of the original, so that
two names never become one silently.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import PurePosixPath

__all__ = [
    "PROPERTIES",
    "RUN_TAG",
    "event_key",
    "file_path",
    "level",
    "metric_and_variant",
    "model_name",
    "own_property",
    "param_name",
    "project_name",
    "run_tag",
    "section_name",
    "suffix_of",
    "task_folder",
    "task_name",
]

RUN_TAG = "trainbus-run:"
"""Begins the tag by which a task is found again."""

PROPERTIES = "properties"
"""The section of hyperparameters that ClearML shows as user properties. It may be edited whatever
the status of the task."""

_OWN = "trainbus."
"""Begins the user properties of the sink; a user's parameter of that name gets another one."""

_MIN_NAME = 3
_MAX_NAME = 250
_MAX_DEPTH = 10
_MAX_TAG = 250
_MAX_LEVEL_BYTES = 150
"""A file name may have 255 bytes on most file systems; the path of a picture joins two of these."""

_BAD_IN_LEVEL = re.compile(r"[^A-Za-z0-9 _.\-()]+")
_SUFFIX = re.compile(r"(?:\.[A-Za-z0-9]{1,10}){1,2}")


def project_name(project: str) -> str:
    """The project of a project on the bus: the same path, made sound where it is not."""
    parts = [part.strip() for part in project.replace("\0", "-").split("/")]
    kept = [part for part in parts if part]
    if len(kept) > _MAX_DEPTH:
        kept[_MAX_DEPTH - 1 :] = ["-".join(kept[_MAX_DEPTH - 1 :])]
    kept = [part if len(part) >= _MIN_NAME else f"{part}-project" for part in kept]
    name = "/".join(kept)[:_MAX_NAME].strip(" /")
    return name if name == project else _with_hash(name or "project", project, _MAX_NAME)


def task_name(name: str) -> str:
    """The name of a task; tasks of one project may share it."""
    return _long_enough(name, "run")


def model_name(name: str) -> str:
    """The name of a model; models may share it."""
    return _long_enough(name, "model")


def _long_enough(name: str, what: str) -> str:
    cleaned = name.replace("\0", "-").strip()[:_MAX_NAME].strip()
    return cleaned if len(cleaned) >= _MIN_NAME else f"{what} {cleaned}".strip()


def run_tag(run: str) -> str:
    """The tag by which the task of a run is found."""
    cleaned = run.replace("\0", "-").strip()
    if cleaned == run and len(run) <= _MAX_TAG:
        return RUN_TAG + run
    return RUN_TAG + _with_hash(cleaned, run, _MAX_TAG)


@lru_cache(maxsize=65_536)
def metric_and_variant(name: str) -> tuple[str, str]:
    """Title and series of a metric: ``a/b`` is b of a; a name without a slash is both.

    Two names never give the same pair: "loss/loss" would be that of "loss", and changes.
    """
    title, _, series = name.partition("/")
    if not title or not series:
        return name, name
    return title, _with_hash(series, name, len(series) + 12) if series == title else series


@lru_cache(maxsize=65_536)
def event_key(metric: str) -> str | None:
    """What to send as ``key`` of a scalar or plot beside its metric; None to send none.

    The server names an event by the md5 of ``task-iter-metric-variant[-key]``: "c" of "a-b" would
    take the place of "b-c" of "a". A metric without a dash ends at the first one after ``iter``;
    any other carries this key, after which no two are alike.
    """
    return hashlib.sha256(metric.encode()).hexdigest()[:16] if "-" in metric else None


def section_name(section: str) -> str:
    """The section of hyperparameters. The server writes "Properties" in lower case."""
    cleaned = section.replace("\0", "-").strip()
    if cleaned.lower() == PROPERTIES:
        return PROPERTIES
    return cleaned if cleaned == section else _with_hash(cleaned, section, _MAX_NAME)


def param_name(section: str, name: str) -> str:
    """The name of a parameter of a user; the sink's own properties are out of reach."""
    cleaned = name.replace("\0", "-").strip()
    if section == PROPERTIES and cleaned.startswith(_OWN):
        return f"user.{cleaned}"
    return cleaned if cleaned == name else _with_hash(cleaned, name, _MAX_NAME)


def own_property(name: str) -> str:
    """The name of a user property of the sink."""
    return _OWN + name


def task_folder(project: str, name: str, task: str) -> str:
    """Where the SDK, too, keeps the files of a task: ``{project}/{name}.{task id}``."""
    return f"{file_path(project)}/{level(name)}.{task}"


def file_path(path: str) -> str:
    """A relative path of levels, each made safe; empty levels go."""
    return "/".join(level(part) for part in path.split("/") if part) or level(path)


@lru_cache(maxsize=65_536)
def level(name: str) -> str:
    """One level of a path on a file server, in plain ASCII. Keeps a suffix.

    No two names give the same one.
    """
    is_plain = name not in {"", ".", ".."} and name == name.strip(" .")
    if is_plain and len(name) <= _MAX_LEVEL_BYTES and not _BAD_IN_LEVEL.search(name):
        return name
    suffix = suffix_of(name)
    stem = _BAD_IN_LEVEL.sub("-", name.removesuffix(suffix)).strip(" .")
    return _with_hash(stem, name, _MAX_LEVEL_BYTES - len(suffix)) + suffix


def suffix_of(name: str) -> str:
    """The suffixes of a file name with their dots, or nothing when it has no plain ones."""
    suffix = "".join(PurePosixPath(name.rpartition("/")[2]).suffixes[-2:])
    if _SUFFIX.fullmatch(suffix):
        return suffix
    last = PurePosixPath(name.rpartition("/")[2]).suffix
    return last if _SUFFIX.fullmatch(last) else ""


def _with_hash(cleaned: str, original: str, limit: int) -> str:
    mark = f"-x{hashlib.sha256(original.encode()).hexdigest()[:10]}"
    return (cleaned[: limit - len(mark)].strip(" /") or "name") + mark
