r"""Names as MLflow takes them.

MLflow refuses a metric, param or tag whose name is over 250 characters, does not match
``^[/\w.\- :]*$`` or is no plain path (a leading, trailing or double slash, a level ``.`` or
``..``), and one such name makes it refuse the whole batch. Most names are fine and keep their own.

Any other name is cleaned, shortened, and gets ``-x`` and ten hex digits of the sha256 of the
original at its end, so that two names never become one silently: "loss (train)" and "loss [train]"
both clean to "loss -train-". A good name that happens to end like that is treated as one to
change, so that it cannot meet a changed one either. The original is kept in a tag.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import PurePosixPath

__all__ = [
    "MAX_NAME",
    "artifact_path",
    "experiment_name",
    "level",
    "model_name",
    "name_tag",
    "own_tag",
    "registered_name",
    "safe_name",
    "suffix_of",
    "user_tag",
]

MAX_NAME = 250
"""MLflow's longest name of a metric, param or tag."""

_MAX_CHANGED = 220
"""A changed name leaves room for the prefix of a tag about it."""

_MAX_EXPERIMENT = 450
"""MLflow takes 500; some databases index fewer."""

_MAX_LEVEL_BYTES = 200
"""A file name may have 255 bytes on most file systems."""

_RESERVED_TAGS = ("trainbus.", "mlflow.runName")
"""Tags that steer the sink or MLflow itself; a user's tag of that name gets another one."""

_GOOD = re.compile(r"[/\w.\- :]+")
_BAD = re.compile(r"[^/\w.\- :]+")
_GOOD_LEVEL = re.compile(r"[\w.\- ]+")
_BAD_LEVEL = re.compile(r"[^\w.\- ]+")
_CHANGED = re.compile(r"-x[0-9a-f]{10}(?:\.[A-Za-z0-9]{1,10})?\Z")
_BAD_IN_MODEL = re.compile(r"[/:.%\"'\x00]")
_BAD_IN_REGISTRY = re.compile(r"[/:\"'`\x00]")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}")


@lru_cache(maxsize=65_536)
def safe_name(name: str) -> str:
    """The name of a metric, param or tag in MLflow. Two names never give the same one."""
    parts = name.split("/")
    is_good = (
        len(name) <= MAX_NAME
        and _GOOD.fullmatch(name)
        and all(_is_plain(part) for part in parts)
        # MySQL compares without trailing blanks.
        and name == name.strip()
        and not _is_changed(name)
    )
    if is_good:
        return name
    cleaned = _BAD.sub("-", name)
    kept = filter(None, (part.lstrip(".") for part in cleaned.split("/")))
    return _with_hash("/".join(kept), name, _MAX_CHANGED)


def own_tag(prefix: str, key: str) -> str:
    """A tag of the sink about something: a name in MLflow, or a path of an artifact."""
    tag = prefix + key
    return tag if len(tag) <= MAX_NAME else _with_hash(tag, tag, MAX_NAME)


def name_tag(changed: str) -> str:
    """The tag that keeps the original of a changed name."""
    return own_tag("trainbus.name.", changed)


def user_tag(name: str) -> str:
    """The name of a tag that a user sets; the sink's own tags are out of reach."""
    if name.startswith(_RESERVED_TAGS):
        return _with_hash("user." + _BAD.sub("-", name).replace("/", "-"), name, MAX_NAME)
    return safe_name(name)


def experiment_name(project: str) -> str:
    """The experiment of a project: its name, shortened when MLflow would not take it."""
    if len(project) <= _MAX_EXPERIMENT and "\0" not in project and project == project.strip():
        return project
    return _with_hash(project.replace("\0", "-").strip(), project, _MAX_EXPERIMENT)


def model_name(name: str) -> str:
    """The name of a LoggedModel, which takes no ``/ : . % " '``."""
    return _replaced(name, _BAD_IN_MODEL)


def registered_name(name: str) -> str:
    """The name of a registered model, which takes no ``/`` and no ``:``; quotes go as well.

    MLflow's filter language has no way to ask for a name with both kinds of quotes.
    """
    return _replaced(name, _BAD_IN_REGISTRY)


def _replaced(name: str, bad: re.Pattern[str]) -> str:
    cleaned = bad.sub("-", name).strip()
    if cleaned == name and len(name) <= MAX_NAME and not _is_changed(name):
        return name
    return _with_hash(cleaned, name, MAX_NAME)


def level(name: str) -> str:
    """One level of an artifact path. Keeps a suffix, so that viewers know the file's type."""
    if (
        len(name.encode()) <= _MAX_LEVEL_BYTES
        and _GOOD_LEVEL.fullmatch(name)
        and _is_plain(name)
        and name == name.strip()
        and not _is_changed(name)
    ):
        return name
    suffix = suffix_of(name)
    stem = _BAD_LEVEL.sub("-", name.removesuffix(suffix)).strip(" .")
    short = stem.encode()[: _MAX_LEVEL_BYTES - 30].decode(errors="ignore")
    return _with_hash(short, name, MAX_NAME) + suffix


def artifact_path(path: str) -> str:
    """A relative path of levels, each made safe; empty levels go."""
    levels = [level(part) for part in path.split("/") if part]
    return "/".join(levels) or level(path)


def suffix_of(name: str) -> str:
    """The suffix of a file name with its dot, or nothing when it has no plain one."""
    suffix = PurePosixPath(name.rpartition("/")[2]).suffix
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def _is_plain(part: str) -> bool:
    # MLflow refuses a path that begins with two dots, whatever follows.
    return part not in {"", "."} and not part.startswith("..")


def _is_changed(name: str) -> bool:
    return _CHANGED.search(name) is not None


def _with_hash(cleaned: str, original: str, limit: int) -> str:
    mark = f"-x{hashlib.sha256(original.encode()).hexdigest()[:10]}"
    return (cleaned[: limit - len(mark)].strip(" /") or "name") + mark
