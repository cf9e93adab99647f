"""What a trainer says about its run before anything is trained."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from publishers.auto.environ import project_of
from publishers.integrations.ultralytics.guard import warnings

__all__ = ["config_of", "name_of", "params_of", "phase_args", "project_of_args"]

_DEFAULT_PROJECT = "Ultralytics"
"""As Ultralytics' own ClearML callback calls it."""

_PHASE_ARGS = ("task", "mode", "model", "data", "epochs", "imgsz", "batch", "device")

_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_MAX_CLASSES = 10_000


def params_of(args: object) -> dict[str, Any]:
    """The arguments, without what a URL may hold of keys and passwords."""
    return {name: _without_secrets(value) for name, value in sorted(_vars(args).items())}


def phase_args(args: object) -> dict[str, Any]:
    """The few arguments that say what a phase does; all of them are params."""
    params = params_of(args)
    names = (*_PHASE_ARGS, "format") if params.get("mode") == "export" else _PHASE_ARGS
    return {name: params[name] for name in names if params.get(name) is not None}


def project_of_args(args: object, environ: Mapping[str, str], folder: str) -> str | None:
    """The project, unless ``TRAINBUS_PROJECT`` is to say it (None).

    Args:
        args: Of the training; ``project=…`` counts unless the variable was set by a person.
        environ: Of this process.
        folder: The working folder, whose name ``trainbus run`` falls back to.
    """
    told = environ.get("TRAINBUS_PROJECT")
    is_fallback = bool(environ.get("TRAINBUS_WRAPPER")) and told == project_of(folder)
    if told and not is_fallback:
        return None
    given = str(getattr(args, "project", None) or "").strip("/")
    return given or (None if told else _DEFAULT_PROJECT)


def name_of(args: object, environ: Mapping[str, str]) -> str | None:
    """The run's name: that of its folder, unless ``TRAINBUS_RUN_NAME`` is to say it (None)."""
    if environ.get("TRAINBUS_RUN_NAME"):
        return None
    return str(getattr(args, "name", None) or "") or None


def config_of(args: object, device: object = None) -> dict[str, Any]:
    """Class names, as far as they are known already, and the machine."""
    config: dict[str, Any] = {}
    parts = (("environment", _environment, device), ("names", _class_names, args))
    for name, find, about in parts:
        try:
            found = find(about)
        except Exception as error:  # noqa: BLE001  # a run must not fail for want of these
            warnings.warn("config", f"{name} is left out: {type(error).__name__}: {error}")
            continue
        if found:
            config[name] = found
    return config


def _vars(args: object) -> dict[str, Any]:
    if isinstance(args, Mapping):
        return dict(args)
    return dict(vars(args)) if hasattr(args, "__dict__") else {}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str) and "://" in value:
        return _USER_INFO.sub("", value).partition("?")[0]
    if isinstance(value, list | tuple):
        return [_without_secrets(one) for one in value]
    return value


def _environment(device: object) -> dict[str, Any]:
    """As Ultralytics' own Platform callback names it; from what is at hand without a program."""
    ultralytics = sys.modules.get("ultralytics")
    found: dict[str, Any] = {
        "ultralyticsVersion": str(getattr(ultralytics, "__version__", "")),
        "os": platform.platform(),
        "pythonVersion": platform.python_version(),
        "pythonExecutable": sys.executable,
        "cpuCount": os.cpu_count() or 0,
        # Only the program: what follows may hold a key.
        "command": sys.argv[0] if sys.argv else "",
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torchVersion"] = str(getattr(torch, "__version__", ""))
        if getattr(device, "type", None) == "cuda":
            found["gpuCount"] = torch.cuda.device_count()
            found["gpuType"] = torch.cuda.get_device_name(0)
    return found


def _class_names(args: object) -> dict[str, str]:
    """The names of the classes: Ultralytics reads them only after the run has begun.

    A data set that still has to be fetched has none yet.
    """
    if getattr(args, "single_cls", False):
        return {"0": "item"}
    data = getattr(args, "data", None)
    if not isinstance(data, str | os.PathLike):
        return {}
    path = Path(data)
    if path.is_dir():
        # Classification: a folder for each class.
        folders = sorted(one.name for one in (path / "train").glob("*/"))
        return {str(number): name for number, name in enumerate(folders[:_MAX_CLASSES])}
    names = _yaml_names(path)
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names or [])
    return {str(number): str(name) for number, name in list(pairs)[:_MAX_CLASSES]}


def _yaml_names(path: Path) -> Any:
    """``names`` of a data set's file, which Ultralytics may also find among its own."""
    from ultralytics.utils import YAML
    from ultralytics.utils.checks import check_file

    found = check_file(str(path), download=False, hard=False)
    if not found or isinstance(found, list) or Path(found).suffix not in {".yaml", ".yml"}:
        return None
    return YAML.load(found).get("names")
